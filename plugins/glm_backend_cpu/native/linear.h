// Matrix products with packed weights; included after a Vector.
//
// Every output element is summed in an order that depends on nothing but the matrix: inputs in
// ascending order, one accumulator a group. So a row gives the same bits whatever batch it stands in.
#pragma once
#include "elementwise.h"

namespace {

using glm::LinearJob;
using glm::kColumns;
using glm::kRows;

constexpr int64_t kPrefetch = 1536;  // bytes ahead of the weights that are being multiplied

// Scales ----------------------------------------------------------------------------------------

GLM_INLINE F group_scale(const GlmMatrix& w, int64_t block, int64_t group) {
  const int64_t at = (block * (w.in_features / w.group_size) + group) * kRows;
  if (w.scale_type == kF16) return V::load_f16((const uint16_t*)w.scale + at);
  if (w.scale_type == kBF16) return V::load_bf16((const uint16_t*)w.scale + at);
  return V::load((const float*)w.scale + at);
}

GLM_INLINE int64_t block_bytes(const GlmMatrix& w) {
  return w.padded_in * kRows * glm::bits_of(w.format) / 8;
}

// Bias, activation function, conversion, and only as many rows as there are.
GLM_INLINE void finish(const LinearJob& job, F y, int64_t m, int64_t block) {
  if (job.w->bias) y = V::add(y, V::load(job.w->bias + block * kRows));
  if (job.activation == glm::kGeluTanh) y = gelu_tanh(y);
  const int64_t count = job.w->out_features - block * kRows, at = m * job.y_stride + block * kRows;
  with_dtype(job.dtype, [&](auto t) {
    using T = decltype(t);
    store_some<T>((typename T::Element*)job.y + at, y, count);
  });
}

// Prepared activations --------------------------------------------------------------------------
//
// A tile of rows is interleaved in units of 4 bytes (four int8, a pair of bfloat16, a float32): unit u
// of the tile's row r is at u * height + r, so that one pointer walks through all of them.

struct TileRow {
  int64_t first, height, row;  // first row of the tile, rows of it, this row within it
};

GLM_INLINE TileRow tile_of(int64_t m, int64_t M) {
  int64_t first = M / V::kMaxTile * V::kMaxTile, height = V::kMaxTile;
  if (m < first) return {m / height * height, height, m % height};
  while (height > M - first || m >= first + height) {
    if (height <= M - first) first += height;
    height /= 2;
  }
  return {first, height, m - first};
}

GLM_INLINE char* unit_of(const LinearJob& job, TileRow t, int64_t unit) {
  return job.prepared + t.first * job.row_bytes + (unit * t.height + t.row) * 4;
}

template <int MT>
GLM_INLINE const char* tile_units(const LinearJob& job, int64_t m0) {
  return job.prepared + m0 * job.row_bytes;
}

// Units [first, first + n) of a row from a plain copy of them.
GLM_INLINE void put_units(const LinearJob& job, TileRow t, int64_t first, const void* source, int64_t n) {
  char* to = unit_of(job, t, first);
  if (t.height == 1) {
    memcpy(to, source, (size_t)n * 4);
    return;
  }
  for (int64_t i = 0; i < n; i++) memcpy(to + i * t.height * 4, (const char*)source + i * 4, 4);
}

// Quantised activations -------------------------------------------------------------------------

template <class T>
void quantise_rows(const LinearJob& job, int64_t first, int64_t last) {
  const GlmMatrix& w = *job.w;
  const int32_t offset = w.format == glm::kInt4 ? 8 : (int32_t)V::kInt8Offset;
  for (int64_t m = first; m < last; m++) {
    const auto* x = (const typename T::Element*)job.x + m * job.x_stride;
    const TileRow tile = tile_of(m, job.M);
    for (int64_t g = 0; g < job.act_groups; g++) {
      const int64_t begin = g * job.act_group, end = smaller(begin + job.act_group, w.padded_in);
      // Magnitudes are compared as integers, so that NaN and infinity are the largest.
      I most = V::int_zero();
      for (int64_t k = begin; k < smaller(end, w.in_features); k += 16)
        most = V::int_max(most, V::magnitude(load_some<T>(x + k, w.in_features - k)));
      const int32_t bits = V::int_largest(most);
      float size;
      memcpy(&size, &bits, 4);
      const bool finite = bits < 0x7f800000;
      // Below 1e-30 the reciprocal would overflow; such a group counts as zeros.
      const bool some = finite && size >= 1e-30f;
      const F inverse = V::set(some ? 127.0f / size : 0.0f);
      I total = V::int_zero();
      for (int64_t k = begin; k < end; k += 16) {
        I value = V::int_zero();
        if (some && k < w.in_features) value = V::to_int(V::mul(load_some<T>(x + k, w.in_features - k), inverse));
        total = V::int_add(total, value);
        int8_t units[16];
        V::store_int8(units, value);
        put_units(job, tile, k / 4, units, 4);
      }
      const int64_t at = tile.first * job.act_groups + g * tile.height + tile.row;
      job.scales[at] = some ? size / 127.0f : finite ? 0.0f : __builtin_nanf("");
      job.offsets[at] = -offset * V::int_sum(total);
    }
  }
}

template <int BITS>
struct Quantised;
template <>
struct Quantised<4> {
  static constexpr int64_t inputs = 8;
  static GLM_INLINE V::W4 weights(I w) { return V::split4(w); }
  template <int MT>
  static GLM_INLINE I dot(I sum, V::W4 w, const int8_t* x) {
    return V::dot4(sum, w, x, x + 4 * MT);
  }
};
template <>
struct Quantised<8> {
  static constexpr int64_t inputs = 4;
  static GLM_INLINE V::W8 weights(I w) { return V::prepare8(w); }
  template <int MT>
  static GLM_INLINE I dot(I sum, V::W8 w, const int8_t* x) {
    return V::dot8(sum, w, x);
  }
};

// MT rows of activations times NB blocks of weights. CHAINS independent integer sums hide the latency
// of the products where there are few outputs; integers add up to the same in any order.
template <int BITS, bool GROUPED, int MT, int NB>
void integer_tile(const LinearJob& job, int64_t m0, int64_t block) {
  using Q = Quantised<BITS>;
  constexpr int CHAINS = MT * NB >= 4 ? 1 : 4 / (MT * NB);
  const GlmMatrix& w = *job.w;
  const int64_t bytes = block_bytes(w);
  const uint8_t* weights = w.weight + block * bytes;
  const int8_t* x = (const int8_t*)tile_units<MT>(job, m0);
  const float* scales = job.scales + m0 * job.act_groups;
  const int32_t* offsets = job.offsets + m0 * job.act_groups;
  F total[MT][NB];
  for (int m = 0; m < MT; m++)
    for (int n = 0; n < NB; n++) total[m][n] = V::zero();
  for (int64_t g = 0; g < job.act_groups; g++) {
    const int64_t begin = g * job.act_group, end = smaller(begin + job.act_group, w.padded_in);
    I sum[CHAINS][MT][NB];
    for (int c = 0; c < CHAINS; c++)
      for (int m = 0; m < MT; m++)
        for (int n = 0; n < NB; n++) sum[c][m][n] = c ? V::int_zero() : V::int_set(offsets[g * MT + m]);
    const uint8_t* at = weights + begin / Q::inputs * 64;
    // A group is never empty, and the compiler copies no registers in a loop that it knows to begin.
    int64_t k = begin;
#pragma GCC unroll 2
    do {
#pragma GCC unroll 4
      for (int c = 0; c < CHAINS; c++) {
        decltype(Q::weights(V::int_zero())) part[NB];
#pragma GCC unroll 2
        for (int n = 0; n < NB; n++) {
          const uint8_t* source = at + n * bytes + c * 64;
          V::prefetch(source + kPrefetch);
          part[n] = Q::weights(V::load_bytes(source));
        }
#pragma GCC unroll 8
        for (int m = 0; m < MT; m++)
#pragma GCC unroll 2
          for (int n = 0; n < NB; n++)
            sum[c][m][n] = Q::template dot<MT>(sum[c][m][n], part[n], x + (k + c * Q::inputs) * MT + m * 4);
      }
      k += Q::inputs * CHAINS, at += 64 * CHAINS;
    } while (k < end);
    for (int n = 0; n < NB; n++) {
      const F weight_scale = GROUPED ? group_scale(w, block + n, begin / w.group_size) : V::zero();
      for (int m = 0; m < MT; m++) {
        I all = sum[0][m][n];
        for (int c = 1; c < CHAINS; c++) all = V::int_add(all, sum[c][m][n]);
        const F scale = V::set(scales[g * MT + m]);
        if (GROUPED)
          total[m][n] = V::fma(V::mul(V::to_float(all), scale), weight_scale, total[m][n]);
        else
          total[m][n] = V::fma(V::to_float(all), scale, total[m][n]);
      }
    }
  }
  for (int m = 0; m < MT; m++)
    for (int n = 0; n < NB; n++) {
      if (!GROUPED) total[m][n] = V::mul(total[m][n], V::load((const float*)w.scale + (block + n) * kRows));
      finish(job, total[m][n], m0 + m, block + n);
    }
}

// Exact activations -----------------------------------------------------------------------------

template <class T>
void float_rows(const LinearJob& job, int64_t first, int64_t last) {
  const int64_t in = job.w->in_features;
  for (int64_t m = first; m < last; m++) {
    const auto* x = (const typename T::Element*)job.x + m * job.x_stride;
    const TileRow tile = tile_of(m, job.M);
    for (int64_t k = 0; k < job.w->padded_in; k += 16) {
      float units[16];
      V::store(units, k < in ? load_some<T>(x + k, in - k) : V::zero());
      put_units(job, tile, k, units, 16);
    }
  }
}

// Weights of one 64-byte vector, input by input.
template <int FORMAT>
struct Exact;
template <>
struct Exact<glm::kInt4> {
  static constexpr int inputs = 8;
  static GLM_INLINE I prepare(I w) { return w; }
  static GLM_INLINE F get(I w, int i) { return V::nibble(w, i < 4 ? 8 * i : 8 * (i - 4) + 4); }
};
template <>
struct Exact<glm::kInt8> {
  static constexpr int inputs = 4;
  static GLM_INLINE I prepare(I w) { return V::flip8(w); }
  static GLM_INLINE F get(I w, int i) { return V::signed_byte(w, 8 * i); }
};
template <>
struct Exact<glm::kBFloat16> {
  static constexpr int inputs = 2;
  static GLM_INLINE I prepare(I w) { return w; }
  static GLM_INLINE F get(I w, int i) { return i ? V::bf16_high(w) : V::bf16_low(w); }
};
template <>
struct Exact<glm::kFloat16> {
  static constexpr int inputs = 2;
  static GLM_INLINE I prepare(I w) { return w; }
  static GLM_INLINE F get(I w, int i) { return i ? V::f16_second(w) : V::f16_first(w); }
};
template <>
struct Exact<glm::kFloat32> {
  static constexpr int inputs = 1;
  static GLM_INLINE I prepare(I w) { return w; }
  static GLM_INLINE F get(I w, int) { return V::as_floats(w); }
};

// Adds the products of inputs [begin, end) to the sums, in float32.
template <int FORMAT>
struct FloatProducts {
  using X = Exact<FORMAT>;
  static constexpr bool scaled = FORMAT == glm::kInt4 || FORMAT == glm::kInt8;
  template <int MT, int NB>
  static GLM_INLINE void add(const LinearJob& job, int64_t m0, const uint8_t* weights, int64_t bytes, int64_t begin,
                             int64_t end, F (&sum)[MT][NB]) {
    const float* x = (const float*)tile_units<MT>(job, m0);
    const uint8_t* at = weights + begin / X::inputs * 64;
    int64_t k = begin;
    do {
      I part[NB];
#pragma GCC unroll 4
      for (int n = 0; n < NB; n++) {
        V::prefetch(at + n * bytes + kPrefetch);
        part[n] = X::prepare(V::load_bytes(at + n * bytes));
      }
#pragma GCC unroll 8
      for (int i = 0; i < X::inputs; i++) {
        F value[NB];
#pragma GCC unroll 4
        for (int n = 0; n < NB; n++) value[n] = X::get(part[n], i);
#pragma GCC unroll 8
        for (int m = 0; m < MT; m++) {
          const F input = V::set(x[(k + i) * MT + m]);
#pragma GCC unroll 4
          for (int n = 0; n < NB; n++) sum[m][n] = V::fma(value[n], input, sum[m][n]);
        }
      }
      k += X::inputs, at += 64;
    } while (k < end);
  }
};

#ifdef __AVX512BF16__
// Rows of bfloat16 as the pairs that the products of a format take, eight inputs at a time.
void pair_rows(const LinearJob& job, int64_t first, int64_t last) {
  static const int order[8] = {0, 2, 4, 6, 1, 3, 5, 7};
  const int64_t in = job.w->in_features;
  for (int64_t m = first; m < last; m++) {
    const uint16_t* x = (const uint16_t*)job.x + m * job.x_stride;
    const TileRow tile = tile_of(m, job.M);
    for (int64_t k = 0; k < job.w->padded_in; k += 8) {
      uint16_t eight[8] = {}, units[8];
      if (k < in) memcpy(eight, x + k, (size_t)smaller(8, in - k) * 2);
      for (int i = 0; i < 8; i++) units[i] = eight[job.w->format == glm::kInt4 ? order[i] : i];
      put_units(job, tile, k / 2, units, 4);
    }
  }
}

// The same with bfloat16 products; weights of int4 are exact in bfloat16.
template <int FORMAT>
struct PairProducts {
  static constexpr bool scaled = FORMAT == glm::kInt4;
  static constexpr int pairs = FORMAT == glm::kInt4 ? 4 : 1;
  static GLM_INLINE I get(I w, int i) { return FORMAT == glm::kInt4 ? V::nibble_pair(w, 4 * i) : w; }
  template <int MT, int NB>
  static GLM_INLINE void add(const LinearJob& job, int64_t m0, const uint8_t* weights, int64_t bytes, int64_t begin,
                             int64_t end, F (&sum)[MT][NB]) {
    const char* x = tile_units<MT>(job, m0);
    const uint8_t* at = weights + begin / (2 * pairs) * 64;
    int64_t k = begin;
    do {
      I part[NB];
#pragma GCC unroll 4
      for (int n = 0; n < NB; n++) {
        V::prefetch(at + n * bytes + kPrefetch);
        part[n] = V::load_bytes(at + n * bytes);
      }
#pragma GCC unroll 4
      for (int i = 0; i < pairs; i++) {
        I value[NB];
#pragma GCC unroll 4
        for (int n = 0; n < NB; n++) value[n] = get(part[n], i);
#pragma GCC unroll 8
        for (int m = 0; m < MT; m++)
#pragma GCC unroll 4
          for (int n = 0; n < NB; n++)
            sum[m][n] = V::dot_pair(sum[m][n], value[n], x + (k / 2 + i) * MT * 4 + m * 4);
      }
      k += 2 * pairs, at += 64;
    } while (k < end);
  }
};
#endif

template <class Products, bool GROUPED, int MT, int NB>
void exact_tile(const LinearJob& job, int64_t m0, int64_t block) {
  const GlmMatrix& w = *job.w;
  const int64_t bytes = block_bytes(w);
  const uint8_t* weights = w.weight + block * bytes;
  const int64_t step = GROUPED ? w.group_size : w.padded_in;
  F total[MT][NB];
  for (int64_t begin = 0; begin < w.padded_in; begin += step) {
    F sum[MT][NB];
    for (int m = 0; m < MT; m++)
      for (int n = 0; n < NB; n++) sum[m][n] = V::zero();
    Products::template add<MT, NB>(job, m0, weights, bytes, begin, smaller(begin + step, w.padded_in), sum);
    for (int m = 0; m < MT; m++)
      for (int n = 0; n < NB; n++) {
        if (!GROUPED)
          total[m][n] = sum[m][n];
        else
          total[m][n] = V::fma(sum[m][n], group_scale(w, block + n, begin / w.group_size),
                               begin ? total[m][n] : V::zero());
      }
  }
  for (int m = 0; m < MT; m++)
    for (int n = 0; n < NB; n++) {
      if (!GROUPED && Products::scaled)
        total[m][n] = V::mul(total[m][n], V::load((const float*)w.scale + (block + n) * kRows));
      finish(job, total[m][n], m0 + m, block + n);
    }
}

// All rows of activations times some blocks -------------------------------------------------------

template <int BITS, bool GROUPED>
struct IntegerTiles {
  static constexpr int streams = 1;  // blocks that a single row reads side by side
  template <int MT, int NB>
  static void run(const LinearJob& job, int64_t m, int64_t block) {
    integer_tile<BITS, GROUPED, MT, NB>(job, m, block);
  }
};
template <class Products, bool GROUPED>
struct ExactTiles {
  static constexpr int streams = V::kStreams;
  template <int MT, int NB>
  static void run(const LinearJob& job, int64_t m, int64_t block) {
    exact_tile<Products, GROUPED, MT, NB>(job, m, block);
  }
};

template <class Tiles, int NB>
GLM_INLINE void rows_of_panel(const LinearJob& job, int64_t block, int64_t m) {
  if constexpr (V::kMaxTile >= 8)
    for (; m + 8 <= job.M; m += 8) Tiles::template run<8, NB>(job, m, block);
  for (; m + 4 <= job.M; m += 4) Tiles::template run<4, NB>(job, m, block);
  if (m + 2 <= job.M) Tiles::template run<2, NB>(job, m, block), m += 2;
  if (m < job.M) Tiles::template run<1, NB>(job, m, block);
}

template <class Tiles>
void multiply(const LinearJob& job, int64_t block, int64_t last) {
  if constexpr (Tiles::streams > V::kWide)
    if (job.M == 1)
      for (; block + Tiles::streams <= last; block += Tiles::streams)
        Tiles::template run<1, Tiles::streams>(job, 0, block);
  if constexpr (V::kWide > 1)
    if (job.M > 4 || Tiles::streams > 1)
      for (; block + V::kWide <= last; block += V::kWide) rows_of_panel<Tiles, V::kWide>(job, block, 0);
  for (; block < last; block++) rows_of_panel<Tiles, 1>(job, block, 0);
}

void linear(const LinearJob& job, int64_t first, int64_t last) {
  const GlmMatrix& w = *job.w;
  if (job.act_group) {
    if (w.format == glm::kInt4)
      return w.group_size ? multiply<IntegerTiles<4, true>>(job, first, last) : multiply<IntegerTiles<4, false>>(job, first, last);
    return w.group_size ? multiply<IntegerTiles<8, true>>(job, first, last) : multiply<IntegerTiles<8, false>>(job, first, last);
  }
#ifdef __AVX512BF16__
  if (job.dtype == kBF16) {
    if (w.format == glm::kInt4)
      return w.group_size ? multiply<ExactTiles<PairProducts<glm::kInt4>, true>>(job, first, last)
                          : multiply<ExactTiles<PairProducts<glm::kInt4>, false>>(job, first, last);
    if (w.format == glm::kBFloat16) return multiply<ExactTiles<PairProducts<glm::kBFloat16>, false>>(job, first, last);
  }
#endif
  switch (w.format) {
    case glm::kInt4:
      return w.group_size ? multiply<ExactTiles<FloatProducts<glm::kInt4>, true>>(job, first, last)
                          : multiply<ExactTiles<FloatProducts<glm::kInt4>, false>>(job, first, last);
    case glm::kInt8:
      return w.group_size ? multiply<ExactTiles<FloatProducts<glm::kInt8>, true>>(job, first, last)
                          : multiply<ExactTiles<FloatProducts<glm::kInt8>, false>>(job, first, last);
    case glm::kBFloat16: return multiply<ExactTiles<FloatProducts<glm::kBFloat16>, false>>(job, first, last);
    case glm::kFloat16: return multiply<ExactTiles<FloatProducts<glm::kFloat16>, false>>(job, first, last);
    default: return multiply<ExactTiles<FloatProducts<glm::kFloat32>, false>>(job, first, last);
  }
}

void prepare(const LinearJob& job, int64_t first, int64_t last) {
#ifdef __AVX512BF16__
  const bool pairs = job.w->format == glm::kInt4 || job.w->format == glm::kBFloat16;
  if (!job.act_group && job.dtype == kBF16 && pairs) return pair_rows(job, first, last);
#endif
  with_dtype(job.dtype, [&](auto t) {
    if (job.act_group)
      quantise_rows<decltype(t)>(job, first, last);
    else
      float_rows<decltype(t)>(job, first, last);
  });
}

// Rows of the matrix itself -----------------------------------------------------------------------

template <int FORMAT>
void rows_of(const GlmMatrix& w, int64_t id, float* row) {
  using X = Exact<FORMAT>;
  const uint8_t* weights = w.weight + id / kRows * block_bytes(w);
  const int64_t lane = id % kRows;
  float sixteen[16];
  for (int64_t k = 0; k < w.padded_in; k += X::inputs) {
    const I part = X::prepare(V::load_bytes(weights + k / X::inputs * 64));
#pragma GCC unroll 8
    for (int i = 0; i < X::inputs; i++) {
      V::store(sixteen, X::get(part, i));
      row[k + i] = sixteen[lane];
    }
  }
}

void embed(const GlmMatrix& w, const int64_t* ids, int64_t first, int64_t last, char* y, int32_t dtype) {
  constexpr int64_t kPiece = 1024;  // columns that are unpacked before they are scaled and stored
  alignas(64) float row[kPiece];
  for (int64_t r = first; r < last; r++) {
    for (int64_t begin = 0; begin < w.in_features; begin += kPiece) {
      GlmMatrix piece = w;
      piece.padded_in = smaller(kPiece, w.padded_in - begin);
      // The piece keeps its lane; only the block's beginning moves.
      piece.weight = w.weight + ids[r] / kRows * block_bytes(w) + begin * kRows * glm::bits_of(w.format) / 8;
      const int64_t lane = ids[r] % kRows;
      switch (w.format) {
        case glm::kInt4: rows_of<glm::kInt4>(piece, lane, row); break;
        case glm::kInt8: rows_of<glm::kInt8>(piece, lane, row); break;
        case glm::kBFloat16: rows_of<glm::kBFloat16>(piece, lane, row); break;
        case glm::kFloat16: rows_of<glm::kFloat16>(piece, lane, row); break;
        default: rows_of<glm::kFloat32>(piece, lane, row);
      }
      with_dtype(dtype, [&](auto t) {
        using T = decltype(t);
        auto* out = (typename T::Element*)y + r * w.in_features + begin;
        float scales[16];
        for (int64_t k = 0; k < piece.padded_in && begin + k < w.in_features; k += 16) {
          F values = V::load(row + k);
          if (w.scale) {
            float scale = 0;
            if (w.group_size) {
              V::store(scales, group_scale(w, ids[r] / kRows, (begin + k) / w.group_size));
              scale = scales[lane];
            } else {
              scale = ((const float*)w.scale)[ids[r]];
            }
            values = V::mul(values, V::set(scale));
          }
          store_some<T>(out + k, values, w.in_features - begin - k);
        }
      });
    }
  }
}

}  // namespace
