// Loading, storing and the functions of one vector, for every dtype; included after a Vector.
#pragma once
#include "kernels.h"

namespace {

using glm::kBF16;
using glm::kF16;
using glm::kF32;
using F = Vector::F;
using I = Vector::I;
using V = Vector;

#define GLM_INLINE inline __attribute__((always_inline))

struct Float32 {
  using Element = float;
  static constexpr int32_t kind = kF32;
  static GLM_INLINE F load(const float* p) { return V::load(p); }
  static GLM_INLINE void store(float* p, F x) { V::store(p, x); }
};
struct BFloat16 {
  using Element = uint16_t;
  static constexpr int32_t kind = kBF16;
  static GLM_INLINE F load(const uint16_t* p) { return V::load_bf16(p); }
  static GLM_INLINE void store(uint16_t* p, F x) { V::store_bf16(p, x); }
};
struct Float16 {
  using Element = uint16_t;
  static constexpr int32_t kind = kF16;
  static GLM_INLINE F load(const uint16_t* p) { return V::load_f16(p); }
  static GLM_INLINE void store(uint16_t* p, F x) { V::store_f16(p, x); }
};

// The first n of 16 elements; the others are 0.
template <class T>
GLM_INLINE F load_some(const typename T::Element* p, int64_t n) {
  if (n >= 16) return T::load(p);
  typename T::Element some[16] = {};
  memcpy(some, p, (size_t)n * sizeof(*p));
  return T::load(some);
}

template <class T>
GLM_INLINE void store_some(typename T::Element* p, F x, int64_t n) {
  if (n >= 16) return T::store(p, x);
  typename T::Element some[16];
  T::store(some, x);
  memcpy(p, some, (size_t)n * sizeof(*p));
}

// e to the power of x, to about 1e-7; inputs are clamped to where the result is a normal number.
GLM_INLINE F exponential(F x) {
  x = V::min(V::set(88.0f), V::max(V::set(-87.0f), x));  // in this order NaN stays NaN
  const F n = V::round(V::mul(x, V::set(1.44269504088896341f)));
  F r = V::fma(n, V::set(-0.693359375f), x);
  r = V::fma(n, V::set(2.12194440e-4f), r);
  F p = V::set(1.9875691500e-4f);
  p = V::fma(p, r, V::set(1.3981999507e-3f));
  p = V::fma(p, r, V::set(8.3334519073e-3f));
  p = V::fma(p, r, V::set(4.1665795894e-2f));
  p = V::fma(p, r, V::set(1.6666665459e-1f));
  p = V::fma(p, r, V::set(5.0000001201e-1f));
  p = V::fma(V::mul(p, r), r, V::add(r, V::set(1.0f)));
  return V::mul(p, V::power_of_two(n));
}

// GELU with the tanh approximation: 0.5 (1 + tanh u) is 1 / (1 + exp(-2u)).
GLM_INLINE F gelu_tanh(F x) {
  const F cube = V::mul(V::mul(x, x), x);
  const F u = V::mul(V::set(-2.0f * 0.7978845608028654f), V::fma(cube, V::set(0.044715f), x));
  return V::div(x, V::add(V::set(1.0f), exponential(u)));
}

// Calls the function object with the type of a dtype.
template <class Function>
GLM_INLINE void with_dtype(int32_t dtype, Function&& function) {
  if (dtype == kF32) return function(Float32());
  if (dtype == kBF16) return function(BFloat16());
  function(Float16());
}

GLM_INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

}  // namespace
