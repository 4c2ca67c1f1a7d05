#define GLM_LEVEL avx512bf16
#include "vector_avx512.h"

#include "level.h"
