// Which part of torch 2.13's Metal backend meets an operator's tensors first, by operator.
//
// Read off the functions that macOS's library registers for MPS: a TensorIterator, the Placeholder
// through which MPSGraph is fed, or an encoder that binds buffers to a Metal kernel. Each words a
// tensor that is elsewhere, or of a dtype that Metal lacks, in its own way.
#pragma once

namespace simulated {

inline constexpr const char* kIterator[] = {
    "__ilshift__", "__irshift__", "__lshift__", "__rshift__", "_index_put_impl_", "acos", "acosh",
    "add", "addcdiv", "addcmul", "asin", "asinh", "atan", "atan2", "atanh", "bitwise_and",
    "bitwise_left_shift", "bitwise_not", "bitwise_or", "bitwise_right_shift", "bitwise_xor",
    "ceil", "clamp", "clamp_max", "clamp_min", "conj_physical", "copysign", "cos", "cosh",
    "digamma", "div", "elu", "elu_backward", "eq", "equal", "erf", "erfc", "erfinv", "exp",
    "exp2", "expm1", "floor", "floor_divide", "fmax", "fmin", "fmod", "frac", "gcd", "ge", "gelu",
    "gelu_backward", "glu", "gt", "hardshrink", "hardshrink_backward", "hardsigmoid",
    "hardsigmoid_backward", "hypot", "i0", "igamma", "igammac", "index", "isneginf", "isposinf",
    "lcm", "le", "leaky_relu", "leaky_relu_backward", "lerp", "lgamma", "log", "log10", "log1p",
    "log2", "logaddexp", "logaddexp2", "logical_not", "logit", "logit_backward", "lt",
    "max_pool3d_with_indices", "maximum", "minimum", "mish", "mse_loss", "mul", "ne", "neg",
    "nextafter", "polygamma", "pow", "reciprocal", "relu", "relu_", "remainder", "round", "rsqrt",
    "rsub", "sgn", "sigmoid", "sigmoid_backward", "sign", "signbit", "silu", "silu_backward",
    "sin", "sinc", "sinh", "smooth_l1_loss", "softplus", "softplus_backward", "softshrink",
    "softshrink_backward", "special_bessel_j0", "special_bessel_j1", "special_bessel_y0",
    "special_bessel_y1", "special_chebyshev_polynomial_t", "special_chebyshev_polynomial_u",
    "special_chebyshev_polynomial_v", "special_chebyshev_polynomial_w", "special_entr",
    "special_erfcx", "special_hermite_polynomial_h", "special_hermite_polynomial_he",
    "special_i0e", "special_i1", "special_i1e", "special_modified_bessel_i0",
    "special_modified_bessel_i1", "special_modified_bessel_k0", "special_modified_bessel_k1",
    "special_scaled_modified_bessel_k0", "special_scaled_modified_bessel_k1",
    "special_shifted_chebyshev_polynomial_t", "special_shifted_chebyshev_polynomial_u",
    "special_shifted_chebyshev_polynomial_v", "special_shifted_chebyshev_polynomial_w",
    "special_spherical_bessel_j0", "special_xlog1py", "special_zeta", "sqrt", "sub", "tan",
    "tanh", "tanh_backward", "threshold", "threshold_backward", "trunc", "where", "xlogy",
};

inline constexpr const char* kGraph[] = {
    "_batch_norm_with_update", "_fft_c2c", "_fft_c2r", "_fft_r2c", "_log_softmax",
    "_log_softmax_backward_data", "_native_batch_norm_legit", "_prelu_kernel",
    "_prelu_kernel_backward", "_softmax", "_softmax_backward_data", "_unique", "_unique2",
    "_upsample_nearest_exact1d", "_upsample_nearest_exact1d_backward",
    "_upsample_nearest_exact2d", "_upsample_nearest_exact2d_backward", "_weight_norm_interface",
    "_weight_norm_interface_backward", "avg_pool2d_backward", "batch_norm_backward",
    "binary_cross_entropy", "binary_cross_entropy_backward", "bincount", "bmm", "constant_pad_nd",
    "flip", "glu_backward", "hardtanh_backward", "huber_loss", "huber_loss_backward",
    "index_select", "log_sigmoid_backward", "log_sigmoid_forward", "logical_and", "logical_or",
    "logical_xor", "max", "max_pool2d", "max_pool2d_backward", "max_pool2d_with_indices",
    "max_pool2d_with_indices_backward", "median", "min", "mse_loss_backward", "nan_to_num",
    "nanmedian", "native_batch_norm", "native_batch_norm_backward", "native_layer_norm_backward",
    "nll_loss2d_backward", "nll_loss2d_forward", "nll_loss_backward", "nll_loss_forward",
    "pixel_shuffle", "pixel_unshuffle", "prod", "reflection_pad1d", "reflection_pad1d_backward",
    "reflection_pad2d", "reflection_pad2d_backward", "reflection_pad3d",
    "reflection_pad3d_backward", "repeat", "replication_pad2d", "replication_pad2d_backward",
    "replication_pad3d", "replication_pad3d_backward", "smooth_l1_loss_backward", "std",
    "std_mean", "unique_consecutive", "unique_dim_consecutive", "upsample_bilinear2d_backward",
    "upsample_linear1d_backward", "upsample_nearest1d", "upsample_nearest1d_backward",
    "upsample_nearest2d", "upsample_nearest2d_backward", "var", "var_mean",
};

inline constexpr const char* kKernel[] = {
    "_amp_update_scale_", "_assert_async", "_cdist_backward", "_cdist_forward",
    "_convert_weight_to_int4pack", "_cummax_helper", "_cummin_helper", "_dirichlet_grad",
    "_embedding_bag", "_embedding_bag_dense_backward", "_embedding_bag_forward_only",
    "_embedding_bag_per_sample_weights_backward", "_fused_rms_norm", "_histogramdd_from_bin_cts",
    "_histogramdd_from_bin_tensors", "_logcumsumexp", "_sample_dirichlet", "_standard_gamma",
    "_standard_gamma_grad", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa",
    "_upsample_nearest_exact3d", "_upsample_nearest_exact3d_backward", "_weight_int4pack_mm",
    "_weight_int8pack_mm", "argmax", "argmin", "avg_pool2d", "avg_pool3d", "avg_pool3d_backward",
    "cat", "col2im", "count_nonzero", "cumprod", "cumsum", "embedding_dense_backward", "gather",
    "grid_sampler_2d", "grid_sampler_2d_backward", "grid_sampler_3d", "grid_sampler_3d_backward",
    "histc", "histogram", "im2col", "kthvalue", "linalg_cross", "linalg_qr",
    "max_pool3d_with_indices_backward", "max_unpool2d", "max_unpool3d", "native_dropout",
    "native_dropout_backward", "native_group_norm", "native_group_norm_backward",
    "native_layer_norm", "nonzero", "nonzero_static", "renorm", "repeat_interleave",
    "replication_pad1d", "replication_pad1d_backward", "scatter", "scatter_add", "scatter_reduce",
    "sort", "topk", "tril", "triu", "upsample_bicubic2d", "upsample_bicubic2d_backward",
    "upsample_bilinear2d", "upsample_linear1d", "upsample_nearest3d",
    "upsample_nearest3d_backward", "upsample_trilinear3d", "upsample_trilinear3d_backward",
};

} // namespace simulated
