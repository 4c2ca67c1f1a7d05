// Linear layers over int8 and int4 weights, for the --kernels cpm of glm. Compiled at run time for the GPU
// at hand. No header is included, since a run-time compiler does not find any: half numbers are their bits.
//
// Shapes: x [rows, columns], weights [outputs, columns] or two to a byte with the even column in the high
// half, scale [outputs, columns / group] float, bias [outputs] half, y [rows, outputs].

typedef unsigned short half_bits;

__device__ float to_float(half_bits bits) {
    float value;
    asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
    return value;
}

__device__ half_bits to_half(float value) {
    half_bits bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
    return bits;
}

__device__ int number_of(const signed char *row, int column, int bits) {
    if (bits == 8) return row[column];
    int both = row[column / 2];
    return column % 2 ? (signed char)(both << 4) >> 4 : both >> 4;
}

// The whole matrix as half numbers. A block a row, its threads along the columns.
__device__ void extract(const signed char *weight, const float *scale, half_bits *out, int columns, int group,
                        int bits) {
    const long long row = blockIdx.x;
    const signed char *stored = weight + row * (columns * bits / 8);
    const float *scales = scale + row * (columns / group);
    for (int column = threadIdx.x; column < columns; column += blockDim.x)
        out[row * columns + column] = to_half(number_of(stored, column, bits) * scales[column / group]);
}

// One output of one row a warp: each lane sums up every 32nd group of eight columns, then the lanes' sums are
// added in a fixed order. The result of a row does not depend on the other rows.
__device__ void multiply(const half_bits *x, const signed char *weight, const float *scale,
                         const half_bits *bias, half_bits *y, int columns, int outputs, int group, int bits) {
    const int lane = threadIdx.x % 32, output = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    const long long row = blockIdx.y;
    if (output >= outputs) return;
    const half_bits *inputs = x + row * columns;
    const signed char *stored = weight + (long long)output * (columns * bits / 8);
    const float *scales = scale + (long long)output * (columns / group);
    float total = 0;
    for (int first = lane * 8; first < columns; first += 32 * 8) {
        float part = 0;
        const int last = first + 8 < columns ? first + 8 : columns;
        for (int column = first; column < last; ++column)
            part += number_of(stored, column, bits) * to_float(inputs[column]);
        total += part * scales[first / group];
    }
    for (int distance = 16; distance > 0; distance /= 2)
        total += __shfl_xor_sync(0xffffffffu, total, distance);
    if (lane == 0)
        y[row * outputs + output] = to_half(bias ? total + to_float(bias[output]) : total);
}

extern "C" __global__ void extract_int8(const signed char *weight, const float *scale, half_bits *out,
                                        int columns, int group) {
    extract(weight, scale, out, columns, group, 8);
}

extern "C" __global__ void extract_int4(const signed char *weight, const float *scale, half_bits *out,
                                        int columns, int group) {
    extract(weight, scale, out, columns, group, 4);
}

extern "C" __global__ void multiply_int8(const half_bits *x, const signed char *weight, const float *scale,
                                         const half_bits *bias, half_bits *y, int columns, int outputs,
                                         int group) {
    multiply(x, weight, scale, bias, y, columns, outputs, group, 8);
}

extern "C" __global__ void multiply_int4(const half_bits *x, const signed char *weight, const float *scale,
                                         const half_bits *bias, half_bits *y, int columns, int outputs,
                                         int group) {
    multiply(x, weight, scale, bias, y, columns, outputs, group, 4);
}
