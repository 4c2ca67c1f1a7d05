// The library's C interface: choosing the instruction level, packing, and splitting work among threads.
#include <stdint.h>
#include <string.h>

#include <atomic>

#include "kernels.h"
#include "pool.h"

#if defined(__x86_64__)
#define GLM_X86 1
#include <cpuid.h>
#endif

#ifdef _WIN32
#define GLM_API extern "C" __declspec(dllexport)
#else
#define GLM_API extern "C" __attribute__((visibility("default")))
#endif

namespace glm {

extern const Kernels kernels_portable;
extern const Kernels kernels_avx2, kernels_avxvnni, kernels_avx512, kernels_avx512bf16;

namespace {

struct Level {
  const Kernels* kernels;
  bool runs;
};

constexpr int kLevels = 5;

#ifdef GLM_X86
uint64_t enabled_registers() {
  uint32_t low, high;
  __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return (uint64_t)high << 32 | low;
}

bool bit(uint32_t word, int index) { return word >> index & 1; }
#endif

// Fastest first. The system must save the wide registers too, which xgetbv tells.
const Level* levels() {
  static Level found[kLevels] = {};
  static const bool filled = [] {
    int n = 0;
#ifdef GLM_X86
    uint32_t a = 0, b = 0, c = 0, d = 0, b7 = 0, c7 = 0, a71 = 0;
    __get_cpuid(1, &a, &b, &c, &d);
    const uint64_t saved = bit(c, 27) ? enabled_registers() : 0;
    const bool fma_f16c = bit(c, 12) && bit(c, 29);
    if (__get_cpuid_count(7, 0, &a, &b7, &c7, &d)) {
      const uint32_t subleaves = a;
      if (subleaves >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) a71 = a;
    }
    const bool avx2 = (saved & 0x6) == 0x6 && fma_f16c && bit(b7, 5);
    const bool avx512 = avx2 && (saved & 0xe6) == 0xe6 && bit(b7, 16) && bit(b7, 17) && bit(b7, 30) && bit(b7, 31) && bit(c7, 11);
    // Levels that the compiler could not build are not there.
#ifdef GLM_HAVE_AVX512BF16
    found[n++] = {&kernels_avx512bf16, avx512 && bit(a71, 5)};
#endif
#ifdef GLM_HAVE_AVX512
    found[n++] = {&kernels_avx512, avx512};
#endif
#ifdef GLM_HAVE_AVXVNNI
    found[n++] = {&kernels_avxvnni, avx2 && bit(a71, 4)};
#endif
#ifdef GLM_HAVE_AVX2
    found[n++] = {&kernels_avx2, avx2};
#endif
    (void)avx512, (void)a71;
#endif
    found[n] = {&kernels_portable, true};
    return true;
  }();
  (void)filled;
  return found;
}

const Kernels* best() {
  const Level* level = levels();
  while (!level->runs) level++;
  return level->kernels;
}

std::atomic<const Kernels*> chosen{nullptr};
std::atomic<int> num_threads{1};

const Kernels& kernels() {
  const Kernels* now = chosen.load(std::memory_order_relaxed);
  if (!now) chosen.store(now = best());
  return *now;
}

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
int64_t round_up(int64_t a, int64_t b) { return (a + b - 1) / b * b; }
int64_t width(int32_t dtype) { return dtype == kF32 ? 4 : 2; }

constexpr int64_t kSmall = 1 << 17;       // multiplications that are not worth a second thread
constexpr int64_t kSlab = 512;            // rows whose activations are prepared at a time
constexpr int64_t kPieceBytes = 1 << 16;  // of weights that a thread takes at a time
constexpr int64_t kPieceWork = 1 << 22;   // multiplications that one piece should not exceed

// Packs up to 16 rows into the layout that `Format` describes.
void pack_block(int32_t format, const char* rows, int64_t row_bytes, int64_t count, int64_t in, int64_t padded, uint8_t* out) {
  const int64_t bytes = padded * kRows * bits_of(format) / 8;
  memset(out, format == kInt4 ? 0x88 : format == kInt8 ? 0x80 : 0, (size_t)bytes);
  for (int64_t r = 0; r < count; r++) {
    const char* row = rows + r * row_bytes;
    switch (format) {
      case kInt4:
        for (int64_t k = 0; k < in; k += 8) {
          uint8_t* lane = out + k / 8 * 64 + r * 4;
          uint8_t value[8];
          for (int64_t i = 0; i < 8; i += 2) {
            // Even columns are in the high nibble; adding 8 to two's complement flips the top bit.
            const uint8_t two = k + i < in ? (uint8_t)((uint8_t)row[(k + i) / 2] ^ 0x88) : 0x88;
            value[i] = two >> 4;
            value[i + 1] = two & 15;
          }
          for (int64_t j = 0; j < 4; j++) lane[j] = (uint8_t)(value[j] | value[j + 4] << 4);
        }
        break;
      case kInt8:
        for (int64_t k = 0; k < in; k++) out[k / 4 * 64 + r * 4 + k % 4] = (uint8_t)((uint8_t)row[k] ^ 0x80);
        break;
      case kBFloat16:
        for (int64_t k = 0; k < in; k++) memcpy(out + k / 2 * 64 + r * 4 + k % 2 * 2, row + k * 2, 2);
        break;
      case kFloat16:
        for (int64_t k = 0; k < in; k++) memcpy(out + k / 2 * 64 + k % 2 * 32 + r * 2, row + k * 2, 2);
        break;
      default:
        for (int64_t k = 0; k < in; k++) memcpy(out + k * 64 + r * 4, row + k * 4, 4);
    }
  }
}

// Where a slab's prepared activations stand in the scratch memory; returns the bytes they need.
int64_t lay_out(LinearJob& job, int64_t rows, bool pairs) {
  const int64_t padded = job.w->padded_in;
  job.row_bytes = padded * (job.act_group ? 1 : pairs ? 2 : 4);
  job.act_groups = job.act_group ? (padded + job.act_group - 1) / job.act_group : 0;
  return rows * (job.row_bytes + job.act_groups * 8) + 128;
}

void point(LinearJob& job, char* memory, int64_t rows) {
  job.prepared = memory;
  job.scales = (float*)(memory + rows * job.row_bytes);
  job.offsets = (int32_t*)(job.scales + rows * job.act_groups);
}

int64_t blocks_a_piece(const LinearJob& job, int64_t blocks, int64_t panel, int threads) {
  const int64_t bytes = job.w->padded_in * kRows * bits_of(job.w->format) / 8;
  int64_t piece = most(1, kPieceBytes / bytes);
  piece = least(piece, most(1, kPieceWork / (job.M * job.w->padded_in * kRows)));
  piece = least(piece, most(1, blocks / (4 * threads)));
  return round_up(piece, panel);
}

}  // namespace
}  // namespace glm

using namespace glm;

// Changes whenever a signature or a structure does.
GLM_API int32_t glm_abi_version() { return 1; }

// Name of the n-th level that runs here, fastest first; null past the last.
GLM_API const char* glm_level(int32_t n) {
  const Level* level = levels();
  for (int i = 0; i < kLevels && level[i].kernels; i++)
    if (level[i].runs && n-- == 0) return level[i].kernels->name;
  return nullptr;
}

// Takes a level by its name; 0 if it does not run here.
GLM_API int32_t glm_select(const char* name) {
  const Level* level = levels();
  for (int i = 0; i < kLevels && level[i].kernels; i++)
    if (level[i].runs && !strcmp(level[i].kernels->name, name)) {
      chosen.store(level[i].kernels);
      return 1;
    }
  return 0;
}

GLM_API const char* glm_selected() { return kernels().name; }

GLM_API void glm_set_threads(int32_t n) { num_threads.store(n < 1 ? 1 : n); }
GLM_API int32_t glm_get_threads() { return num_threads.load(); }

// Bytes of the packed weights of a matrix.
GLM_API int64_t glm_packed_bytes(int32_t format, int64_t out, int64_t in) {
  return round_up(out, kRows) * round_up(in, kColumns) * bits_of(format) / 8;
}

// Packs stored rows, row_bytes apart, into glm_packed_bytes.
GLM_API void glm_pack(int32_t format, const char* stored, int64_t row_bytes, int64_t out, int64_t in, uint8_t* packed) {
  const int64_t blocks = round_up(out, kRows) / kRows, padded = round_up(in, kColumns);
  const int64_t bytes = padded * kRows * bits_of(format) / 8;
  Serial serial;
  parallel(num_threads.load(), blocks, 4, [&](int64_t first, int64_t last, int) {
    for (int64_t b = first; b < last; b++)
      pack_block(format, stored + b * kRows * row_bytes, row_bytes, least(kRows, out - b * kRows), in, padded, packed + b * bytes);
  });
}

// y = x W' + bias for M rows. act_group: inputs that share a scale of int8 activations (a multiple of
// 32, and a divisor of the weights' group), or 0 to leave activations as they are. Returns 0, or 1 where
// the system has no memory for the prepared activations.
GLM_API int32_t glm_linear(const GlmMatrix* w, const char* x, int64_t x_stride, char* y, int64_t y_stride, int64_t M,
                           int32_t dtype, int32_t act_group, int32_t activation) {
  const Kernels& k = kernels();
  LinearJob job = {};
  job.w = w, job.dtype = dtype, job.activation = activation;
  job.x_stride = x_stride, job.y_stride = y_stride, job.act_group = act_group;
  const bool pairs = !act_group && dtype == kBF16 && k.bf16_products && (w->format == kInt4 || w->format == kBFloat16);
  const int64_t blocks = round_up(w->out_features, kRows) / kRows;
  const int64_t slab = least(M, kSlab);
  Serial serial;
  char* memory = (char*)scratch(lay_out(job, slab, pairs));
  if (!memory) return 1;
  point(job, memory, slab);
  for (int64_t m = 0; m < M; m += slab) {
    job.M = least(slab, M - m);
    job.x = x + m * x_stride * width(dtype);
    job.y = y + m * y_stride * width(dtype);
    const int threads = job.M * w->padded_in * blocks * kRows < kSmall ? 1 : num_threads.load(std::memory_order_relaxed);
    const int64_t grain = job.M * w->in_features < (1 << 15) ? job.M : most(1, (1 << 14) / w->in_features);
    parallel(threads, job.M, grain, [&](int64_t first, int64_t last, int) { k.prepare(job, first, last); });
    parallel(threads, blocks, blocks_a_piece(job, blocks, k.panel, threads),
             [&](int64_t first, int64_t last, int) { k.linear(job, first, last); });
  }
  return 0;
}

// Rows of the matrix, [count, in] in dtype.
GLM_API void glm_embed(const GlmMatrix* w, const int64_t* ids, int64_t count, char* y, int32_t dtype) {
  kernels().embed(*w, ids, 0, count, y, dtype);
}

GLM_API void glm_norm(const GlmNorm* n) {
  const Kernels& k = kernels();
  if (n->M * n->D < (1 << 16)) return k.norm(*n, 0, n->M);
  Serial serial;
  parallel(num_threads.load(), n->M, most(1, (1 << 14) / n->D),
           [&](int64_t first, int64_t last, int) { k.norm(*n, first, last); });
}

// Returns 0, or 1 where the system has no memory for the scores.
GLM_API int32_t glm_decode_attention(const GlmAttention* a) {
  const Kernels& k = kernels();
  int64_t longest = 0, total = 0;
  for (int64_t b = 0; b < a->B; b++) {
    longest = most(longest, a->lengths[b]);
    total += a->lengths[b];
  }
  const int64_t items = a->B * a->G * head_chunks(*a), floats = attention_scratch(longest, a->H);
  const int threads = total * a->N * a->H < kSmall ? 1 : num_threads.load();
  Serial serial;
  auto* memory = (float*)scratch(threads * floats * 4);
  if (!memory) return 1;
  parallel(threads, items, most(1, items / (8 * threads)),
           [&](int64_t first, int64_t last, int thread) { k.attention(*a, first, last, memory + thread * floats); });
  return 0;
}

// Reads memory once with all threads, for measuring bandwidth; the result only keeps the reads alive.
GLM_API uint64_t glm_read(const char* data, int64_t bytes) {
  const Kernels& k = kernels();
  std::atomic<uint64_t> sum{0};
  Serial serial;
  parallel(num_threads.load(), bytes, 1 << 18, [&](int64_t first, int64_t last, int) { sum += k.read(data + first, last - first); });
  return sum.load();
}
