// What the kernels in this folder have in common.
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#define DEVICE __device__ __forceinline__
using u32 = unsigned int;
using u64 = unsigned long long;

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(__half x) { return __half2float(x); }
DEVICE float to_float(__nv_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
DEVICE T from_float(float x);
template <>
DEVICE float from_float<float>(float x) { return x; }
template <>
DEVICE __half from_float<__half>(float x) { return __float2half_rn(x); }
template <>
DEVICE __nv_bfloat16 from_float<__nv_bfloat16>(float x) { return __float2bfloat16_rn(x); }

// x / scale rounded as division is, at the price of three products.
DEVICE float divide(float x, float scale, float inverse) {
    const float quotient = x * inverse;
    return fmaf(fmaf(-quotient, scale, x), inverse, quotient);
}

// Two neighbours in one store.
template <typename T>
DEVICE void store_pair(T* to, const float* value) {
    struct alignas(2 * sizeof(T)) Pair {
        T first, second;
    };
    *reinterpret_cast<Pair*>(to) = {from_float<T>(value[0]), from_float<T>(value[1])};
}

#define ACTIVATION_NONE 0
#define ACTIVATION_GELU 1
#define ACTIVATION_GELU_TANH 2
#define ACTIVATION_RELU 3

#ifdef ACTIVATION
// x / (1 + 2^-z), the logistic function of z ln 2 by x.
DEVICE float gated(float x, float z) {
    float power;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(-z));
    return __fdividef(x, 1.0f + power);
}

// For results of type T.
template <typename T>
DEVICE float activation(float x) {
#if ACTIVATION == ACTIVATION_GELU
    if (sizeof(T) == 4) return 0.5f * x * (1.0f + erff(x * 0.70710678f));
    // log2(p / (1 - p)) for the normal distribution's p at x is odd and nearly straight. Fitted for |x| <= 6, where gelu is
    // right to 0.0011 of itself, less than a third of what the eight bits of a bf16 can tell apart.
    const float t = fminf(x * x, 36.0f);
    float z = fmaf(t, -5.2919265e-9f, 3.9244503e-7f);
    z = fmaf(t, z, 2.4995054e-6f);
    z = fmaf(t, z, -1.3008288e-3f);
    z = fmaf(t, z, 0.10882193f);
    z = fmaf(t, z, 2.2983773f);
    return gated(x, x * z);
#elif ACTIVATION == ACTIVATION_GELU_TANH
    return gated(x, x * fmaf(x * x, 0.1029432f, 2.3022082f));
#elif ACTIVATION == ACTIVATION_RELU
    return fmaxf(x, 0.0f);
#else
    return x;
#endif
}
#endif
