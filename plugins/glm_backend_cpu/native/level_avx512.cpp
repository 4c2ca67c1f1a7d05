#define GLM_LEVEL avx512
#include "vector_avx512.h"

#include "level.h"
