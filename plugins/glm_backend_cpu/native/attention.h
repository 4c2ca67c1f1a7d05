// Decode attention and normalisation; included after a Vector.
#pragma once
#include "elementwise.h"

namespace {

// Turns one head (split-half rotary in R blocks of width h) into float32; without cos it only converts.
template <class T>
void turn(const typename T::Element* x, const typename T::Element* cos, const typename T::Element* sin, int64_t H,
          int64_t R, float* y) {
  const int64_t h = cos ? H / R : H;
  if (!cos) {
    for (int64_t i = 0; i < H; i += 16) V::store(y + i, load_some<T>(x + i, H - i));
    return;
  }
  const int64_t half = h / 2;
  float turned[16];
  for (int64_t r = 0; r < R; r++)
    for (int64_t i = 0; i < half; i += 16) {
      const int64_t n = smaller(16, half - i), a = r * h + i, b = a + half;
      const F first = load_some<T>(x + a, n), second = load_some<T>(x + b, n);
      const F up = V::sub(V::mul(first, load_some<T>(cos + a, n)), V::mul(second, load_some<T>(sin + a, n)));
      const F down = V::add(V::mul(second, load_some<T>(cos + b, n)), V::mul(first, load_some<T>(sin + b, n)));
      V::store(turned, up);
      memcpy(y + a, turned, (size_t)n * 4);
      V::store(turned, down);
      memcpy(y + b, turned, (size_t)n * 4);
    }
}

// scores[head][j] = q[head] . key, for NH heads at once; q is padded with zeros to whole vectors.
template <class T, int NH>
GLM_INLINE void score(const float* q, int64_t q_stride, const typename T::Element* key, int64_t H, float* scores,
                      int64_t score_stride) {
  F sum[NH][2];
  for (int h = 0; h < NH; h++) sum[h][0] = sum[h][1] = V::zero();
  int64_t i = 0;
  for (; i + 32 <= H; i += 32) {
    const F a = T::load(key + i), b = T::load(key + i + 16);
    for (int h = 0; h < NH; h++) {
      sum[h][0] = V::fma(a, V::load(q + h * q_stride + i), sum[h][0]);
      sum[h][1] = V::fma(b, V::load(q + h * q_stride + i + 16), sum[h][1]);
    }
  }
  for (; i < H; i += 16) {
    const F a = load_some<T>(key + i, H - i);
    for (int h = 0; h < NH; h++) sum[h][0] = V::fma(a, V::load(q + h * q_stride + i), sum[h][0]);
  }
  for (int h = 0; h < NH; h++) scores[h * score_stride] = V::sum(V::add(sum[h][0], sum[h][1]));
}

// In place; the sum of the exponentials is returned.
float softmax_numerators(float* scores, int64_t length) {
  const int64_t whole = length / 16 * 16, rest = length - whole;
  F most = V::set(scores[0]);
  for (int64_t j = 0; j < whole; j += 16) most = V::max(most, V::load(scores + j));
  float top = V::largest(most);
  for (int64_t j = whole; j < length; j++) top = scores[j] > top ? scores[j] : top;
  F sum = V::zero();
  for (int64_t j = 0; j < whole; j += 16) {
    const F e = exponential(V::sub(V::load(scores + j), V::set(top)));
    V::store(scores + j, e);
    sum = V::add(sum, e);
  }
  float total = V::sum(sum);
  if (rest) {
    float some[16];
    V::store(some, exponential(V::sub(load_some<Float32>(scores + whole, rest), V::set(top))));
    for (int64_t j = 0; j < rest; j++) total += scores[whole + j] = some[j];
  }
  return total;
}

// out[head][0..16*NC) = sum over j of p[head][j] * value[j]; the last value stands elsewhere.
template <class T, int NH, int NC>
GLM_INLINE void weighted(const float* p, int64_t p_stride, const typename T::Element* values, int64_t H, int64_t length,
                         const typename T::Element* last, const float* inverse, typename T::Element* out, int64_t count) {
  F sum[NH][NC];
  for (int h = 0; h < NH; h++)
    for (int c = 0; c < NC; c++) sum[h][c] = V::zero();
  for (int64_t j = 0; j < length; j++) {
    const auto* value = j + 1 < length ? values + j * H : last;
    F part[NC];
    for (int c = 0; c < NC; c++) part[c] = NC > 1 ? T::load(value + 16 * c) : load_some<T>(value, count);
    for (int h = 0; h < NH; h++) {
      const F weight = V::set(p[h * p_stride + j]);
      for (int c = 0; c < NC; c++) sum[h][c] = V::fma(part[c], weight, sum[h][c]);
    }
  }
  for (int h = 0; h < NH; h++)
    for (int c = 0; c < NC; c++)
      store_some<T>(out + h * H + 16 * c, V::mul(sum[h][c], V::set(inverse[h])), NC > 1 ? 16 : count);
}

// NH heads of one key group, from rotation to output. All heads of a group compute the new key for
// themselves and only the first chunk stores it, so that chunks need not wait for one another.
template <class T, int NH>
void attend(const GlmAttention& a, int64_t b, int64_t g, int64_t head, bool stores, float* scratch) {
  using Element = typename T::Element;
  const int64_t H = a.H, length = a.lengths[b], slot = a.slots[b];
  const int64_t padded = (H + 15) / 16 * 16, row = (length + 15) / 16 * 16;
  const int64_t angles = b * H;
  const Element* cos = a.cos ? (const Element*)a.cos + angles : nullptr;
  const Element* sin = a.cos ? (const Element*)a.sin + angles : nullptr;
  Element* keys = (Element*)a.keys + slot * a.key_slot + g * a.key_group;
  Element* values = (Element*)a.values + slot * a.value_slot + g * a.value_group;
  const Element* value = (const Element*)a.v + b * a.v_row + g * a.v_head;

  float* turned = scratch;                       // one head, float32
  Element* key = (Element*)(turned + padded);    // the new key as the cache will hold it
  float* q = turned + 2 * padded;                // NH heads
  float* scores = q + glm::kHeads * padded;      // NH rows
  turn<T>((const Element*)a.k + b * a.k_row + g * a.k_head, cos, sin, H, a.R, turned);
  for (int64_t i = 0; i < H; i += 16) store_some<T>(key + i, V::load(turned + i), H - i);
  if (stores) {
    memcpy(keys + (length - 1) * H, key, (size_t)H * sizeof(Element));
    memcpy(values + (length - 1) * H, value, (size_t)H * sizeof(Element));
  }
  const F scale = V::set(1.0f / __builtin_sqrtf((float)H));
  for (int h = 0; h < NH; h++) {
    turn<T>((const Element*)a.q + b * a.q_row + (head + h) * a.q_head, cos, sin, H, a.R, turned);
    for (int64_t i = H; i < padded; i++) turned[i] = 0;
    for (int64_t i = 0; i < padded; i += 16) V::store(q + h * padded + i, V::mul(V::load(turned + i), scale));
  }
  for (int64_t j = 0; j + 1 < length; j++) score<T, NH>(q, padded, keys + j * H, H, scores + j, row);
  score<T, NH>(q, padded, key, H, scores + length - 1, row);
  float inverse[NH];
  for (int h = 0; h < NH; h++) inverse[h] = 1.0f / softmax_numerators(scores + h * row, length);

  Element* out = (Element*)a.out + (b * a.N + head) * H;
  constexpr int NC = NH > 1 ? 4 : V::kChannels;
  int64_t i = 0;
  for (; i + 16 * NC <= H; i += 16 * NC)
    weighted<T, NH, NC>(scores, row, values + i, H, length, value + i, inverse, out + i, 16 * NC);
  for (; i < H; i += 16) weighted<T, NH, 1>(scores, row, values + i, H, length, value + i, inverse, out + i, smaller(16, H - i));
}

void attention(const GlmAttention& a, int64_t first, int64_t last, float* scratch) {
  const int64_t chunks = glm::head_chunks(a), shared = a.N / a.G;
  for (int64_t item = first; item < last; item++) {
    const int64_t chunk = item % chunks, g = item / chunks % a.G, b = item / chunks / a.G;
    int64_t head = g * shared + chunk * glm::kHeads;
    const int64_t end = smaller(head + glm::kHeads, (g + 1) * shared);
    with_dtype(a.dtype, [&](auto t) {
      using T = decltype(t);
      if (end - head == glm::kHeads) {
        attend<T, glm::kHeads>(a, b, g, head, chunk == 0, scratch);
      } else {
        for (bool stores = chunk == 0; head < end; head++, stores = false) attend<T, 1>(a, b, g, head, stores, scratch);
      }
    });
  }
}

template <class T>
void norm_rows(const GlmNorm& n, int64_t first, int64_t last) {
  using Element = typename T::Element;
  const auto* weight = (const Element*)n.weight;
  const auto* bias = (const Element*)n.bias;
  const F alpha = V::set(n.alpha);
  for (int64_t m = first; m < last; m++) {
    const auto* x = (const Element*)n.x + m * n.x_stride;
    const auto* residual = n.residual ? (const Element*)n.residual + m * n.residual_stride : nullptr;
    auto* y = (Element*)n.y + m * n.y_stride;
    const auto value = [&](int64_t i) __attribute__((always_inline)) {
      const F v = load_some<T>(x + i, n.D - i);
      return residual ? V::fma(v, alpha, load_some<T>(residual + i, n.D - i)) : v;
    };
    // Four sums at a time: one would wait for itself at every addition.
    const int64_t blocks = n.D / 64 * 64, whole = n.D / 16 * 16;
    F mean = V::zero();
    if (!n.rms) {
      F sum[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
      for (int64_t i = 0; i < blocks; i += 64)
        for (int part = 0; part < 4; part++) sum[part] = V::add(sum[part], value(i + 16 * part));
      for (int64_t i = blocks; i < n.D; i += 16) sum[0] = V::add(sum[0], value(i));
      mean = V::set(V::sum(V::add(V::add(sum[0], sum[1]), V::add(sum[2], sum[3]))) / (float)n.D);
    }
    F squares[4] = {V::zero(), V::zero(), V::zero(), V::zero()};
    for (int64_t i = 0; i < blocks; i += 64)
      for (int part = 0; part < 4; part++) {
        const F d = V::sub(value(i + 16 * part), mean);
        squares[part] = V::fma(d, d, squares[part]);
      }
    for (int64_t i = blocks; i < whole; i += 16) {
      const F d = V::sub(value(i), mean);
      squares[0] = V::fma(d, d, squares[0]);
    }
    float total = V::sum(V::add(V::add(squares[0], squares[1]), V::add(squares[2], squares[3])));
    if (whole < n.D) {  // lanes past the end would count as the mean's square
      float rest[16];
      V::store(rest, V::sub(value(whole), mean));
      for (int64_t i = 0; i < n.D - whole; i++) total += rest[i] * rest[i];
    }
    const F scale = V::set(1.0f / __builtin_sqrtf(total / (float)n.D + n.eps));
    for (int64_t i = 0; i < n.D; i += 16) {
      const F normal = V::mul(V::sub(value(i), mean), scale);
      const F w = load_some<T>(weight + i, n.D - i);
      const F out = bias ? V::fma(normal, w, load_some<T>(bias + i, n.D - i)) : V::mul(normal, w);
      store_some<T>(y + i, out, n.D - i);
    }
  }
}

void norm(const GlmNorm& n, int64_t first, int64_t last) {
  with_dtype(n.dtype, [&](auto t) { norm_rows<decltype(t)>(n, first, last); });
}

uint64_t read(const char* data, int64_t bytes) {
  const auto* p = (const uint8_t*)data;
  I a = V::int_zero(), b = V::int_zero(), c = V::int_zero(), d = V::int_zero();
  for (int64_t i = 0; i + 256 <= bytes; i += 256) {
    for (int line = 0; line < 256; line += 64) V::prefetch(p + i + 1024 + line);
    a = V::int_add(a, V::load_bytes(p + i));
    b = V::int_add(b, V::load_bytes(p + i + 64));
    c = V::int_add(c, V::load_bytes(p + i + 128));
    d = V::int_add(d, V::load_bytes(p + i + 192));
  }
  return V::fold(V::int_add(V::int_add(a, b), V::int_add(c, d)));
}

}  // namespace
