// Sixteen lanes in the compiler's own vector types: any processor that GCC or Clang knows.
#pragma once
#include <stdint.h>
#include <string.h>

namespace {

struct Vector {
  typedef float F __attribute__((vector_size(64)));
  typedef int32_t I __attribute__((vector_size(64)));
  typedef uint32_t U __attribute__((vector_size(64)));
  typedef uint16_t H __attribute__((vector_size(32)));
  typedef int8_t B __attribute__((vector_size(16)));
  using W4 = I;
  using W8 = I;
  static constexpr int64_t kInt8Offset = 128;
  static constexpr int kMaxTile = 4, kWide = 1, kStreams = 1, kChannels = 2;
  static constexpr bool kBF16Products = false;

  static F zero() { return F{}; }
  static F set(float x) { return F{} + x; }
  static F load(const float* p) { F x; memcpy(&x, p, sizeof x); return x; }
  static void store(float* p, F x) { memcpy(p, &x, sizeof x); }
  static F add(F a, F b) { return a + b; }
  static F sub(F a, F b) { return a - b; }
  static F mul(F a, F b) { return a * b; }
  static F div(F a, F b) { return a / b; }
  static F fma(F a, F b, F c) { return a * b + c; }
  static F max(F a, F b) { return a > b ? a : b; }  // b where either is NaN
  static F min(F a, F b) { return a < b ? a : b; }
  static float sum(F a) {
    float lanes[16];
    store(lanes, a);
    for (int width = 8; width; width /= 2)
      for (int i = 0; i < width; i++) lanes[i] += lanes[i + width];
    return lanes[0];
  }
  static float largest(F a) {
    float most = a[0];
    for (int i = 1; i < 16; i++) most = a[i] > most ? a[i] : most;
    return most;
  }
  // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, for everything that is rounded here.
  static F round(F a) { return (a + 12582912.0f) - 12582912.0f; }
  static F power_of_two(F n) { return (F)((to_int(n) + 127) << 23); }

  static F load_bf16(const uint16_t* p) { H h; memcpy(&h, p, sizeof h); return (F)(__builtin_convertvector(h, U) << 16); }
  static void store_bf16(uint16_t* p, F x) {
    const U bits = (U)x;
    const U up = bits + 0x7fffu + ((bits >> 16) & 1u);
    const U quiet = bits | 0x400000u;
    const U rounded = (x == x) ? up : quiet;
    const H h = __builtin_convertvector(rounded >> 16, H);
    memcpy(p, &h, sizeof h);
  }
  static F widen_f16(H h) {
    const U bits = __builtin_convertvector(h, U);
    // Multiplying the shifted exponent and fraction by 2^112 also makes subnormal numbers right.
    const U body = (bits & 0x7fffu) << 13;
    const F scaled = (F)body * 5.192296858534828e33f;
    const U infinite = (U)scaled | 0x7f800000u;
    const U number = (body >= (0x7c00u << 13)) ? infinite : (U)scaled;
    return (F)(number | ((bits & 0x8000u) << 16));
  }
  static F load_f16(const uint16_t* p) { H h; memcpy(&h, p, sizeof h); return widen_f16(h); }
  static uint16_t narrow_f16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    const uint32_t sign = (bits >> 16) & 0x8000u;
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return (uint16_t)(sign | 0x7e00u | ((bits >> 13) & 0x3ffu));
    if (bits >= 0x477ff000u) return (uint16_t)(sign | 0x7c00u);  // rounds to infinity
    if (bits < 0x38800000u) {                                    // subnormal: let the addition round
      float small;
      memcpy(&small, &bits, 4);
      small += 0.5f;
      memcpy(&bits, &small, 4);
      return (uint16_t)(sign | (bits - 0x3f000000u));
    }
    bits += 0xfffu + ((bits >> 13) & 1u);
    return (uint16_t)(sign | ((bits - 0x38000000u) >> 13));
  }
  static void store_f16(uint16_t* p, F x) {
    for (int i = 0; i < 16; i++) p[i] = narrow_f16(x[i]);
  }

  static I int_zero() { return I{}; }
  static I int_set(int32_t x) { return I{} + x; }
  static I int_add(I a, I b) { return a + b; }
  static int32_t int_sum(I a) { int32_t s = 0; for (int i = 0; i < 16; i++) s += a[i]; return s; }
  static F to_float(I a) { return __builtin_convertvector(a, F); }
  static I to_int(F a) { return __builtin_convertvector(round(a), I); }
  static void store_int8(int8_t* p, I a) { const B b = __builtin_convertvector(a, B); memcpy(p, &b, sizeof b); }
  static I magnitude(F a) { return (I)a & 0x7fffffff; }
  static I int_max(I a, I b) { return a > b ? a : b; }
  static int32_t int_largest(I a) { int32_t m = a[0]; for (int i = 1; i < 16; i++) m = a[i] > m ? a[i] : m; return m; }

  static I load_bytes(const uint8_t* p) { I x; memcpy(&x, p, sizeof x); return x; }
  static void prefetch(const uint8_t* p) { __builtin_prefetch(p); }
  static uint64_t fold(I a) { return (uint64_t)(uint32_t)int_sum(a); }

  static W4 split4(I w) { return w; }
  static I dot4(I sum, W4 w, const int8_t* low, const int8_t* high) {
    for (int j = 0; j < 4; j++) sum += ((w >> (8 * j)) & 15) * (int32_t)low[j] + ((w >> (8 * j + 4)) & 15) * (int32_t)high[j];
    return sum;
  }
  static W8 prepare8(I w) { return w; }
  static I dot8(I sum, W8 w, const int8_t* x) {
    for (int j = 0; j < 4; j++) sum += ((w >> (8 * j)) & 255) * (int32_t)x[j];
    return sum;
  }

  static F nibble(I w, int bit) { return to_float(((w >> bit) & 15) - 8); }
  static I flip8(I w) { return (I)((U)w ^ 0x80808080u); }
  static F signed_byte(I w, int bit) { return to_float((I)((U)w << (24 - bit)) >> 24); }
  static F bf16_low(I w) { return (F)((U)w << 16); }
  static F bf16_high(I w) { return (F)((U)w & 0xffff0000u); }
  static F f16_first(I w) { H h; memcpy(&h, &w, sizeof h); return widen_f16(h); }
  static F f16_second(I w) { H h; memcpy(&h, (const char*)&w + 32, sizeof h); return widen_f16(h); }
  static F as_floats(I w) { return (F)w; }
};

}  // namespace
