// Sixteen lanes as two of eight with AVX2, FMA and F16C, and VNNI where compiled for it.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace {

struct Vector {
  struct F { __m256 a, b; };
  struct I { __m256i a, b; };
  using W4 = struct { I low, high; };
  static constexpr int kMaxTile = 4, kWide = 1, kStreams = 2, kChannels = 4;
  static constexpr bool kBF16Products = false;

  static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static F set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static F load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x.a), _mm256_storeu_ps(p + 8, x.b); }
  static F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
  static F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
  static F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
  static F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
  static F fma(F x, F y, F z) { return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)}; }
  static F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }  // y where either is NaN
  static F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
  static float sum(F x) {
    const __m256 s = _mm256_add_ps(x.a, x.b);
    __m128 t = _mm_add_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_add_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_add_ss(t, _mm_movehdup_ps(t)));
  }
  static float largest(F x) {
    const __m256 s = _mm256_max_ps(x.a, x.b);
    __m128 t = _mm_max_ps(_mm256_castps256_ps128(s), _mm256_extractf128_ps(s, 1));
    t = _mm_max_ps(t, _mm_movehl_ps(t, t));
    return _mm_cvtss_f32(_mm_max_ss(t, _mm_movehdup_ps(t)));
  }
  static F round(F x) {
    return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
            _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  static F power_of_two(F n) {
    const I i = to_int(n);
    const __m256i bias = _mm256_set1_epi32(127);
    return as_floats({_mm256_slli_epi32(_mm256_add_epi32(i.a, bias), 23), _mm256_slli_epi32(_mm256_add_epi32(i.b, bias), 23)});
  }

  static __m256 widen_bf16(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
  }
  static F load_bf16(const uint16_t* p) { return {widen_bf16(p), widen_bf16(p + 8)}; }
  static F load_f16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(p + 8)))};
  }
  static __m256i round_bf16(__m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(_mm256_set1_epi32(0x7fff), odd));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    return _mm256_srli_epi32(_mm256_blendv_epi8(up, quiet, nan), 16);
  }
  static void store_bf16(uint16_t* p, F x) {
    const __m256i packed = _mm256_packus_epi32(round_bf16(x.a), round_bf16(x.b));
    _mm256_storeu_si256((__m256i*)p, _mm256_permute4x64_epi64(packed, 0xd8));
  }
  static void store_f16(uint16_t* p, F x) {
    _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    _mm_storeu_si128((__m128i*)(p + 8), _mm256_cvtps_ph(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  static I int_zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static I int_set(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static I int_add(I x, I y) { return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)}; }
  static int32_t int_sum(I x) {
    const __m256i s = _mm256_add_epi32(x.a, x.b);
    __m128i t = _mm_add_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    t = _mm_add_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
  }
  static F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
  static I to_int(F x) { return {_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b)}; }
  static void store_int8(int8_t* p, I x) {
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(x.a, x.b), 0xd8);
    _mm_storeu_si128((__m128i*)p, _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
  }
  static I magnitude(F x) {
    const __m256i mask = _mm256_set1_epi32(0x7fffffff);
    return {_mm256_and_si256(_mm256_castps_si256(x.a), mask), _mm256_and_si256(_mm256_castps_si256(x.b), mask)};
  }
  static I int_max(I x, I y) { return {_mm256_max_epi32(x.a, y.a), _mm256_max_epi32(x.b, y.b)}; }
  static int32_t int_largest(I x) {
    const __m256i s = _mm256_max_epi32(x.a, x.b);
    __m128i t = _mm_max_epi32(_mm256_castsi256_si128(s), _mm256_extracti128_si256(s, 1));
    t = _mm_max_epi32(t, _mm_shuffle_epi32(t, 0x4e));
    return _mm_cvtsi128_si32(_mm_max_epi32(t, _mm_shuffle_epi32(t, 0xb1)));
  }

  static I load_bytes(const uint8_t* p) {
    return {_mm256_loadu_si256((const __m256i*)p), _mm256_loadu_si256((const __m256i*)(p + 32))};
  }
  static void prefetch(const uint8_t* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
  static uint64_t fold(I x) {
    alignas(32) uint64_t lanes[4];
    _mm256_store_si256((__m256i*)lanes, _mm256_add_epi64(x.a, x.b));
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
  }

  static W4 split4(I w) {
    const __m256i mask = _mm256_set1_epi8(15);
    return {{_mm256_and_si256(w.a, mask), _mm256_and_si256(w.b, mask)},
            {_mm256_and_si256(_mm256_srli_epi16(w.a, 4), mask), _mm256_and_si256(_mm256_srli_epi16(w.b, 4), mask)}};
  }
  static __m256i broadcast4(const int8_t* x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm256_set1_epi32(four);
  }
#ifdef __AVXVNNI__
  using W8 = I;
  static constexpr int64_t kInt8Offset = 128;
  static I dot4(I sum, W4 w, const int8_t* low, const int8_t* high) {
    const __m256i x0 = broadcast4(low), x1 = broadcast4(high);
    return {_mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sum.a, w.low.a, x0), w.high.a, x1),
            _mm256_dpbusd_avx_epi32(_mm256_dpbusd_avx_epi32(sum.b, w.low.b, x0), w.high.b, x1)};
  }
  static W8 prepare8(I w) { return w; }
  static I dot8(I sum, W8 w, const int8_t* x) {
    const __m256i x0 = broadcast4(x);
    return {_mm256_dpbusd_avx_epi32(sum.a, w.a, x0), _mm256_dpbusd_avx_epi32(sum.b, w.b, x0)};
  }
#else
  struct W8 { I size, sign; };
  static constexpr int64_t kInt8Offset = 0;
  // 4 products of at most 15 * 127 fit 16 bits, so two vectors are added before they are widened.
  static I dot4(I sum, W4 w, const int8_t* low, const int8_t* high) {
    const __m256i x0 = broadcast4(low), x1 = broadcast4(high), ones = _mm256_set1_epi16(1);
    const __m256i a = _mm256_add_epi16(_mm256_maddubs_epi16(w.low.a, x0), _mm256_maddubs_epi16(w.high.a, x1));
    const __m256i b = _mm256_add_epi16(_mm256_maddubs_epi16(w.low.b, x0), _mm256_maddubs_epi16(w.high.b, x1));
    return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(a, ones)), _mm256_add_epi32(sum.b, _mm256_madd_epi16(b, ones))};
  }
  // maddubs takes unsigned times signed and saturates at 16 bits: |w| times x with w's sign is at
  // most 2 * 128 * 127, which fits. Activations are never -128.
  static W8 prepare8(I w) {
    const I s = flip8(w);
    return {{_mm256_abs_epi8(s.a), _mm256_abs_epi8(s.b)}, s};
  }
  static I dot8(I sum, W8 w, const int8_t* x) {
    const __m256i x0 = broadcast4(x), ones = _mm256_set1_epi16(1);
    const __m256i a = _mm256_maddubs_epi16(w.size.a, _mm256_sign_epi8(x0, w.sign.a));
    const __m256i b = _mm256_maddubs_epi16(w.size.b, _mm256_sign_epi8(x0, w.sign.b));
    return {_mm256_add_epi32(sum.a, _mm256_madd_epi16(a, ones)), _mm256_add_epi32(sum.b, _mm256_madd_epi16(b, ones))};
  }
#endif

  static __m256 nibble_half(__m256i w, int bit) {
    const __m256i value = _mm256_and_si256(_mm256_srli_epi32(w, bit), _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(value, _mm256_set1_epi32(8)));
  }
  static F nibble(I w, int bit) { return {nibble_half(w.a, bit), nibble_half(w.b, bit)}; }
  static I flip8(I w) {
    const __m256i flip = _mm256_set1_epi8((char)0x80);
    return {_mm256_xor_si256(w.a, flip), _mm256_xor_si256(w.b, flip)};
  }
  static F signed_byte(I w, int bit) {
    return to_float({_mm256_srai_epi32(_mm256_slli_epi32(w.a, 24 - bit), 24),
                     _mm256_srai_epi32(_mm256_slli_epi32(w.b, 24 - bit), 24)});
  }
  static F bf16_low(I w) { return as_floats({_mm256_slli_epi32(w.a, 16), _mm256_slli_epi32(w.b, 16)}); }
  static F bf16_high(I w) {
    const __m256i mask = _mm256_set1_epi32((int)0xffff0000);
    return as_floats({_mm256_and_si256(w.a, mask), _mm256_and_si256(w.b, mask)});
  }
  static F widen_f16(__m256i w) {
    return {_mm256_cvtph_ps(_mm256_castsi256_si128(w)), _mm256_cvtph_ps(_mm256_extracti128_si256(w, 1))};
  }
  static F f16_first(I w) { return widen_f16(w.a); }
  static F f16_second(I w) { return widen_f16(w.b); }
  static F as_floats(I w) { return {_mm256_castsi256_ps(w.a), _mm256_castsi256_ps(w.b)}; }
};

}  // namespace
