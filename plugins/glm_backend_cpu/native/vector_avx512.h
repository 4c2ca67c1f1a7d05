// Sixteen lanes with AVX-512 (F, BW, VL, DQ, VNNI) and, where compiled for it, BF16.
#pragma once
#include <immintrin.h>
#include <stdint.h>
#include <string.h>

namespace {

struct Vector {
  using F = __m512;
  using I = __m512i;
  using W4 = struct { I low, high; };
  using W8 = I;
  static constexpr int64_t kInt8Offset = 128;
  static constexpr int kMaxTile = 8, kWide = 2, kStreams = 4, kChannels = 8;
#ifdef __AVX512BF16__
  static constexpr bool kBF16Products = true;
#else
  static constexpr bool kBF16Products = false;
#endif

  static F zero() { return _mm512_setzero_ps(); }
  static F set(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }  // b where either is NaN
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  static float sum(F a) { return _mm512_reduce_add_ps(a); }
  static float largest(F a) { return _mm512_reduce_max_ps(a); }
  static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC); }
  static F power_of_two(F n) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127)), 23));
  }

  static F load_bf16(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
  }
  static F load_f16(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
  static void store_bf16(uint16_t* p, F x) {
    const I bits = _mm512_castps_si512(x);
    I up = _mm512_add_epi32(bits, _mm512_add_epi32(_mm512_set1_epi32(0x7fff),
                                                   _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1))));
    const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
    up = _mm512_mask_or_epi32(up, nan, bits, _mm512_set1_epi32(0x400000));
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16)));
  }
  static void store_f16(uint16_t* p, F x) {
    _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  static I int_zero() { return _mm512_setzero_si512(); }
  static I int_set(int32_t x) { return _mm512_set1_epi32(x); }
  static I int_add(I a, I b) { return _mm512_add_epi32(a, b); }
  static int32_t int_sum(I a) { return _mm512_reduce_add_epi32(a); }
  static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static I to_int(F a) { return _mm512_cvtps_epi32(a); }
  static void store_int8(int8_t* p, I a) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8(a)); }
  static I magnitude(F a) { return _mm512_and_si512(_mm512_castps_si512(a), _mm512_set1_epi32(0x7fffffff)); }
  static I int_max(I a, I b) { return _mm512_max_epi32(a, b); }
  static int32_t int_largest(I a) { return _mm512_reduce_max_epi32(a); }

  static I load_bytes(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static void prefetch(const uint8_t* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }
  static uint64_t fold(I a) { return (uint64_t)_mm512_reduce_add_epi64(a); }

  static W4 split4(I w) {
    const I mask = _mm512_set1_epi8(15);
    return {_mm512_and_si512(w, mask), _mm512_and_si512(_mm512_srli_epi16(w, 4), mask)};
  }
  static I broadcast4(const int8_t* x) {
    int32_t four;
    memcpy(&four, x, 4);
    return _mm512_set1_epi32(four);
  }
  static I dot4(I sum, W4 w, const int8_t* low, const int8_t* high) {
    sum = _mm512_dpbusd_epi32(sum, w.low, broadcast4(low));
    return _mm512_dpbusd_epi32(sum, w.high, broadcast4(high));
  }
  static W8 prepare8(I w) { return w; }
  static I dot8(I sum, W8 w, const int8_t* x) { return _mm512_dpbusd_epi32(sum, w, broadcast4(x)); }

  // The signed value of the nibble that begins at a bit of each lane.
  static F nibble(I w, int bit) {
    const F values = _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7);
    return _mm512_permutexvar_ps(_mm512_srli_epi32(w, bit), values);
  }
  static I flip8(I w) { return _mm512_xor_si512(w, _mm512_set1_epi8((char)0x80)); }
  static F signed_byte(I w, int bit) { return to_float(_mm512_srai_epi32(_mm512_slli_epi32(w, 24 - bit), 24)); }
  static F bf16_low(I w) { return _mm512_castsi512_ps(_mm512_slli_epi32(w, 16)); }
  static F bf16_high(I w) { return _mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32((int)0xffff0000))); }
  static F f16_first(I w) { return _mm512_cvtph_ps(_mm512_castsi512_si256(w)); }
  static F f16_second(I w) { return _mm512_cvtph_ps(_mm512_extracti64x4_epi64(w, 1)); }
  static F as_floats(I w) { return _mm512_castsi512_ps(w); }

#ifdef __AVX512BF16__
  // Pairs of bfloat16 for the nibbles at a bit of both halves of each lane.
  static I nibble_pair(I w, int bit) {
    alignas(64) static const uint16_t values[32] = {
        0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0,
        0xc100, 0xc0e0, 0xc0c0, 0xc0a0, 0xc080, 0xc040, 0xc000, 0xbf80, 0, 0x3f80, 0x4000, 0x4040, 0x4080, 0x40a0, 0x40c0, 0x40e0};
    return _mm512_permutexvar_epi16(_mm512_srli_epi32(w, bit), _mm512_load_si512(values));
  }
  static F dot_pair(F sum, I w, const char* x) {
    int32_t pair;
    memcpy(&pair, x, 4);
    return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)_mm512_set1_epi32(pair));
  }
#endif
};

}  // namespace
