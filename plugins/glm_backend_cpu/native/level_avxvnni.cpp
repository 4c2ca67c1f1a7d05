#define GLM_LEVEL avxvnni
#include "vector_avx2.h"

#include "level.h"
