#define GLM_LEVEL avx2
#include "vector_avx2.h"

#include "level.h"
