// What the library's parts share: the packed matrix, the jobs and the table of one instruction level.
//
// Kernel files are compiled with instructions that this machine may lack. They therefore include no
// C++ library header and keep everything in unnamed namespaces: an inline function that two files
// share could be linked from the wrong one.
#pragma once
#include <stdint.h>

namespace glm {

// How a packed matrix stores its weights. Rows stand in blocks of 16; 64 bytes hold, for each of the
// 16 rows, one 32-bit lane with the next 8 (Int4), 4 (Int8), 2 (BFloat16, Float16) or 1 (Float32)
// inputs. Columns are padded with zeros to a multiple of 32, rows to a multiple of 16.
//   Int4      byte j of a lane: input j in the low nibble, input j + 4 in the high one, value + 8
//   Int8      byte j of a lane: input j, value + 128
//   BFloat16  the low half of a lane is the earlier input
//   Float16   16 rows of the earlier input, then 16 rows of the later one
enum Format : int32_t { kInt4 = 0, kInt8 = 1, kBFloat16 = 2, kFloat16 = 3, kFloat32 = 4 };
enum DType : int32_t { kF32 = 0, kBF16 = 1, kF16 = 2 };
enum Activation : int32_t { kNone = 0, kGeluTanh = 1 };

constexpr int64_t kRows = 16;      // rows of a block
constexpr int64_t kColumns = 32;   // inputs are padded to a multiple of it
constexpr int kHeads = 4;          // query heads that share one pass over the keys

inline constexpr int64_t bits_of(int32_t format) {
  return format == kInt4 ? 4 : format == kInt8 ? 8 : format == kFloat32 ? 32 : 16;
}

}  // namespace glm

extern "C" {

// A packed matrix. Scales are float [out] (padded to 16) where group_size is 0 or there is none, else
// [blocks][in / group_size][16] of scale_type.
struct GlmMatrix {
  const uint8_t* weight;
  const void* scale;  // null for formats without scales
  const float* bias;  // [out] padded to 16, or null
  int64_t out_features;
  int64_t in_features;
  int64_t padded_in;
  int32_t format;
  int32_t group_size;
  int32_t scale_type;
  int32_t reserved;
};

// Decode attention: one new token in each of B rows over a slotted cache.
struct GlmAttention {
  const void* q;  // element (b, n, i) at b * q_row + n * q_head + i; k and v likewise
  const void* k;
  const void* v;
  int64_t q_row, q_head, k_row, k_head, v_row, v_head;
  const void* cos;  // [B, R, H / R], or null: nothing is turned
  const void* sin;
  void* keys;  // element (slot, g, position, i) at slot * slot_stride + g * group_stride + position * H + i
  void* values;
  int64_t key_slot, key_group, value_slot, value_group;
  const int64_t* slots;
  const int64_t* lengths;  // visible positions, the new one included
  void* out;               // [B, N * H]
  int64_t B, N, G, H, R;
  int32_t dtype;
  int32_t reserved;
};

// alpha * x + residual, normalised over D: LayerNorm, or RMSNorm where rms is set.
struct GlmNorm {
  const void* x;
  const void* residual;  // or null
  const void* weight;
  const void* bias;  // or null
  void* y;
  int64_t x_stride, residual_stride, y_stride;
  int64_t M, D;
  float alpha, eps;
  int32_t dtype;
  int32_t rms;
};

}  // extern "C"

namespace glm {

struct LinearJob {
  const GlmMatrix* w;
  const char* x;  // dtype, rows x_stride elements apart
  int64_t x_stride;
  char* y;
  int64_t y_stride;
  int64_t M;
  int32_t dtype;
  int32_t activation;
  int64_t act_group;   // inputs that share a scale of quantised activations; 0 = they stay floats
  int64_t act_groups;  // how many groups a row has
  char* prepared;     // activations as the products take them, interleaved by tiles of rows (linear.h)
  int64_t row_bytes;  // of prepared activations
  float* scales;      // act_groups a row, interleaved likewise
  int32_t* offsets;   // minus the weights' offset times the sum of the group; interleaved likewise
};

// The functions of one instruction level. Ranges are half open.
struct Kernels {
  const char* name;
  int64_t panel;  // blocks that are computed together
  bool bf16_products;
  void (*prepare)(const LinearJob&, int64_t first_row, int64_t last_row);
  void (*linear)(const LinearJob&, int64_t first_block, int64_t last_block);
  void (*embed)(const GlmMatrix&, const int64_t* ids, int64_t first, int64_t last, char* y, int32_t dtype);
  void (*norm)(const GlmNorm&, int64_t first_row, int64_t last_row);
  void (*attention)(const GlmAttention&, int64_t first_item, int64_t last_item, float* scratch);
  uint64_t (*read)(const char* data, int64_t bytes);
};

// Heads of one key group are attended to in chunks of kHeads; an item is one chunk of one row.
inline int64_t head_chunks(const GlmAttention& a) { return (a.N / a.G + kHeads - 1) / kHeads; }
// Floats that one thread needs for an item.
inline int64_t attention_scratch(int64_t longest, int64_t H) {
  return kHeads * (((longest + 15) / 16) * 16 + ((H + 15) / 16) * 16) + 2 * ((H + 15) / 16) * 16;
}

}  // namespace glm
