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
DEVICE float activation(float x) {
#if ACTIVATION == ACTIVATION_GELU
    return 0.5f * x * (1.0f + erff(x * 0.70710678f));
#elif ACTIVATION == ACTIVATION_GELU_TANH
    return 0.5f * x * (1.0f + tanhf(0.7978845608f * (x + 0.044715f * x * x * x)));
#elif ACTIVATION == ACTIVATION_RELU
    return fmaxf(x, 0.0f);
#else
    return x;
#endif
}
#endif
