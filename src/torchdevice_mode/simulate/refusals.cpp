// What Metal has a kernel for and still refuses, by dtype, shape or option: one row for each.
//
// The texts and conditions are torch 2.13's. Left out is what the CPU refuses as well, and what no
// program can reach through torch's own functions.

#include "call.h"

#include <ATen/native/ConvUtils.h>

#include <atomic>
#include <cstring>
#include <limits>
#include <unordered_map>

namespace simulated {

std::atomic<int>& macos() {
  static auto* version = new std::atomic<int>(2600);
  return *version;
}

namespace {

std::atomic<bool> refusing{true};

enum class Raises { Runtime, NotImplemented };

struct Refusal {
  std::vector<const char*> operators;
  bool (*when)(const Call&);
  const char* text;
  const char* source;  // in torch, under aten/src/ATen/native/mps/operations
  Raises error = Raises::Runtime;
  int before_macos = 0;  // 0 for every version
};

bool is(const at::Tensor& tensor, at::ScalarType dtype) {
  return tensor.defined() && tensor.scalar_type() == dtype;
}
bool has_imaginary_part(const at::Tensor& tensor) {
  return tensor.defined() && tensor.is_complex();
}
bool computes(const at::Tensor& tensor) {
  return !tensor.defined() || tensor.is_floating_point() || tensor.is_complex();
}
bool no_float32(const at::Tensor& tensor) {
  return tensor.defined() && tensor.scalar_type() != at::kFloat;
}

std::vector<int64_t> convolved(const Call& call) {
  const auto input = call.tensor("input"), weight = call.tensor("weight");
  const auto padding = call.sizes("padding"), stride = call.sizes("stride");
  const auto dilation = call.sizes("dilation");
  if (call.flag("transposed")) {
    return at::native::_conv_input_size<int64_t>(
        input.sizes(), weight.sizes(), padding, call.sizes("output_padding"), stride, dilation,
        call.find("groups")->toInt());
  }
  return at::native::conv_output_size(input.sizes(), weight.sizes(), padding, stride, dilation);
}

// Sizes of a picture before and after adaptive pooling, whose ratios have to be whole numbers.
struct Pooled {
  explicit Pooled(const Call& call) {
    const auto input = call.tensor("self");
    const auto size = call.sizes("output_size");
    if (input.dim() >= 3 && size.size() == 2) {
      height = input.size(-2), width = input.size(-1);
      new_height = size[0], new_width = size[1];
    }
  }
  bool shrinks() const {
    return height >= new_height && width >= new_width;
  }
  bool grows() const {
    return height <= new_height && width <= new_width;
  }
  int64_t height = 1, width = 1, new_height = 1, new_width = 1;
};

bool divides(int64_t small, int64_t large) {
  return small != 0 && large % small == 0;
}

#define POOL_MANUALLY \
  " Non-divisible input sizes are not implemented on MPS device yet. For now, you can manually " \
  "transfer tensor to cpu in this case. Please refer to [this issue]" \
  "(https://github.com/pytorch/pytorch/issues/96056)"

const std::vector<Refusal>& refusals() {
  static const auto* rows = new std::vector<Refusal>{
      {{"convolution_overrideable", "convolution_backward_overrideable"},
       [](const Call& c) { return !c.tensor("input").is_floating_point(); },
       "Convolution is supported only for Floating types", "Convolution.mm"},
      {{"convolution_overrideable"},
       [](const Call& c) {
         for (int64_t size : convolved(c)) {
           if (size > 1 << 16) {
             return true;
           }
         }
         return false;
       },
       "Output channels > 65536 not supported at the MPS device. ", "Convolution.mm",
       Raises::NotImplemented, 1501},
      {{"convolution_overrideable"},
       [](const Call& c) {
         const auto input = c.tensor("input");
         return c.flag("transposed") && input.dim() == 5 &&
             (is(input, at::kHalf) || is(input, at::kBFloat16));
       },
       "ConvTranspose 3D with BF16 or FP16 types is not supported on MPS", "Convolution.mm"},
      {{"_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"},
       [](const Call& c) {
         const Pooled p(c);
         return p.shrinks() &&
             !(divides(p.new_height, p.height) && divides(p.new_width, p.width));
       },
       "Adaptive pool MPS: input sizes must be divisible by output sizes." POOL_MANUALLY,
       "AdaptivePooling.mm"},
      {{"_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"},
       [](const Call& c) {
         const Pooled p(c);
         return !p.shrinks() && p.grows() &&
             !(divides(p.height, p.new_height) && divides(p.width, p.new_width));
       },
       "Adaptive pool MPS: output sizes must be divisible by input sizes." POOL_MANUALLY,
       "AdaptivePooling.mm"},
      {{"_adaptive_avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d"},
       [](const Call& c) {
         const Pooled p(c);
         return !p.shrinks() && !p.grows();
       },
       "Adaptive pool MPS: Input height and width must both be greater than, or equal to, or "
       "lesser than output height and width",
       "AdaptivePooling.mm"},
      {{"linear"}, [](const Call& c) { return !computes(c.tensor("input")); },
       "MPS device does not support linear for non-float inputs", "Linear.mm"},
      {{"linear"}, [](const Call& c) { return !computes(c.tensor("weight")); },
       "MPS device does not support linear for non-float weights", "Linear.mm"},
      {{"addr"}, [](const Call& c) { return !computes(c.tensor("self")); },
       "MPS device does not support addr for non-float input", "LinearAlgebra.mm"},
      {{"addbmm", "addbmm_", "baddbmm", "baddbmm_"},
       [](const Call& c) { return !computes(c.tensor("batch1")); },
       "MPS device does not support addbmm or baddbmm for this input type", "LinearAlgebra.mm"},
      {{"linalg_solve_triangular", "triangular_solve", "_cholesky_solve_helper"},
       [](const Call& c) { return no_float32(c.tensor("self")); },
       "linalg.solve.triangular(); Only float is supported!", "LinearAlgebra.mm"},
      {{"_linalg_solve_ex"}, [](const Call& c) { return no_float32(c.tensor("A")); },
       "linalg.lu_factor(): MPS only supports floats.", "LinearAlgebra.mm"},
      {{"linalg_lu_factor_ex", "linalg_lu", "_linalg_det", "_linalg_slogdet"},
       [](const Call& c) { return has_imaginary_part(c.tensor("A")); },
       "linalg.lu_factor(): MPS doesn't support complex types.", "LinearAlgebra.mm"},
      {{"linalg_inv_ex"}, [](const Call& c) { return has_imaginary_part(c.tensor("A")); },
       "linalg_inv: not supported for complex types yet!", "LinearAlgebra.mm"},
      {{"linalg_qr"}, [](const Call& c) { return no_float32(c.tensor("A")); },
       "linalg_qr: MPS currently supports float32 only", "LinearAlgebra.mm"},
      {{"cholesky_inverse"}, [](const Call& c) { return no_float32(c.tensor("self")); },
       "cholesky_inverse: MPS only supports float type!", "LinearAlgebra.mm"},
      {{"index_reduce"}, [](const Call& c) { return is(c.tensor("self"), at::kLong); },
       "index_reduce for MPS does not support torch.long dtype", "Indexing.mm"},
      {{"nonzero", "nonzero_static"},
       [](const Call& c) { return c.tensor("self").numel() >= std::numeric_limits<int>::max(); },
       "nonzero is not supported for tensors with more than INT_MAX elements, See "
       "https://github.com/pytorch/pytorch/issues/51871",
       "Indexing.mm"},
      {{"masked_fill_"},
       [](const Call& c) {
         return c.tensor("self").numel() > std::numeric_limits<uint32_t>::max();
       },
       "masked_fill not supported for tensors of more than 2**32 elements", "Indexing.mm"},
      {{"scatter_reduce"},
       [](const Call& c) {
         const auto how = c.text("reduce");
         return is(c.tensor("self"), at::kLong) && (how == "amin" || how == "amax");
       },
       "scatter_reduce(amin/amax) on int64 requires macOS 15 or newer", "ScatterGather.mm",
       Raises::Runtime, 1500},
      {{"_upsample_bilinear2d_aa"}, [](const Call& c) { return !computes(c.tensor("self")); },
       "_upsample_bilineard2d_aa_out_mps only supports floating-point dtypes", "UpSample.mm"},
      {{"_upsample_bicubic2d_aa"}, [](const Call& c) { return !computes(c.tensor("self")); },
       "_upsample_bicubic2d_aa_out_mps only supports floating-point dtypes", "UpSample.mm"},
      {{"lstm"},
       [](const Call& c) {
         const auto* states = c.find("hx");
         const auto given = states != nullptr ? states->toTensorVector() : std::vector<at::Tensor>();
         return given.size() == 2 && given[0].size(-1) != given[1].size(-1);
       },
       "LSTM with projections is not currently supported with MPS.", "RnnOps.mm"},
  };
  return *rows;
}

const std::vector<const Refusal*>* rows_for(const std::string& name) {
  static const auto* table = [] {
    auto* by_name = new std::unordered_map<std::string, std::vector<const Refusal*>>();
    for (const auto& row : refusals()) {
      for (const char* one : row.operators) {
        (*by_name)[one].push_back(&row);
      }
    }
    return by_name;
  }();
  const auto found = table->find(name);
  return found == table->end() ? nullptr : &found->second;
}

} // namespace

void check_refusals(const Call& call) {
  if (kIsCuda || !refusing) {
    return;
  }
  const auto* rows = rows_for(call.operator_name());
  if (rows == nullptr) {
    return;
  }
  for (const auto* row : *rows) {
    if ((row->before_macos != 0 && macos() >= row->before_macos) || !row->when(call)) {
      continue;
    }
    TORCH_CHECK_NOT_IMPLEMENTED(row->error != Raises::NotImplemented, row->text);
    TORCH_CHECK(false, row->text);
  }
}

} // namespace simulated

extern "C" {

// Returns the version that was claimed before.
int simulated_set_macos(int version) {
  return simulated::macos().exchange(version);
}

// Returns whether refusals were on before.
int simulated_set_refusing(int on) {
  return simulated::refusing.exchange(on != 0) ? 1 : 0;
}

// The text of one refusal; null beyond the last.
const char* simulated_refusal(int which) {
  const auto& rows = simulated::refusals();
  return which < static_cast<int>(rows.size()) ? rows[which].text : nullptr;
}
}
