// The table of one instruction level; included after a Vector, with GLM_LEVEL naming it.
#pragma once
#include "attention.h"
#include "linear.h"

#define GLM_JOIN_(a, b) a##b
#define GLM_JOIN(a, b) GLM_JOIN_(a, b)
#define GLM_TEXT_(a) #a
#define GLM_TEXT(a) GLM_TEXT_(a)

namespace glm {
extern const Kernels GLM_JOIN(kernels_, GLM_LEVEL);
const Kernels GLM_JOIN(kernels_, GLM_LEVEL) = {
    GLM_TEXT(GLM_LEVEL), V::kStreams > V::kWide ? V::kStreams : V::kWide, V::kBF16Products, ::prepare, ::linear, ::embed,
    ::norm,              ::attention,                                     ::read,
};
}  // namespace glm
