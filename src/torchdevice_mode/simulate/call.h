// One call of an operator, its arguments by name; what the checks before it look at.
#pragma once

#include "device.h"

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>

#include <string>
#include <vector>

namespace simulated {

class Call {
 public:
  Call(const c10::OperatorHandle& op, const torch::jit::Stack& stack, size_t first)
      : op_(op), stack_(stack), first_(first) {}

  const std::vector<c10::Argument>& arguments() const {
    return op_.schema().arguments();
  }
  const c10::IValue& value(size_t i) const {
    return stack_[first_ + i];
  }
  const c10::IValue* find(const std::string& name) const {
    for (size_t i = 0; i < arguments().size(); ++i) {
      if (arguments()[i].name() == name) {
        return &value(i);
      }
    }
    return nullptr;
  }

  // Undefined where there is none of that name.
  at::Tensor tensor(const std::string& name) const {
    const auto* found = find(name);
    return found != nullptr && found->isTensor() ? found->toTensor() : at::Tensor();
  }
  bool flag(const std::string& name) const {
    const auto* found = find(name);
    return found != nullptr && found->isBool() && found->toBool();
  }
  std::string text(const std::string& name) const {
    const auto* found = find(name);
    return found != nullptr && found->isString() ? found->toStringRef() : "";
  }
  std::vector<int64_t> sizes(const std::string& name) const {
    const auto* found = find(name);
    return found != nullptr && found->isIntList() ? found->toIntVector() : std::vector<int64_t>();
  }

  // The operator's name without "aten::" and overload; whether it is the device's to check.
  std::string operator_name() const {
    const auto& name = op_.schema().name();
    return name.rfind("aten::", 0) == 0 ? name.substr(6) : name;
  }
  const c10::OperatorHandle& op() const {
    return op_;
  }

 private:
  const c10::OperatorHandle& op_;
  const torch::jit::Stack& stack_;
  size_t first_;
};

// Whether a value is a list of tensors that may be absent, such as the indices of `x[:, mask]`. Not
// by `isOptionalTensorList`, which compares type objects, and TorchScript's lists have their own.
inline bool is_optional_tensor_list(const c10::IValue& value) {
  if (!value.isList()) {
    return false;
  }
  const auto type = value.toList().elementType();
  const auto* optional = type->castRaw<c10::OptionalType>();
  return optional != nullptr && optional->getElementType()->kind() == c10::TypeKind::TensorType;
}

// Calls `visit(argument, tensor)` for each tensor that is given, also in lists.
template <typename Visit>
void for_each_tensor(const Call& call, const Visit& visit) {
  for (size_t i = 0; i < call.arguments().size(); ++i) {
    const auto& value = call.value(i);
    const auto& argument = call.arguments()[i];
    if (value.isTensor()) {
      visit(argument, value.toTensor());
    } else if (value.isTensorList()) {
      for (const at::Tensor& tensor : value.toTensorVector()) {
        visit(argument, tensor);
      }
    } else if (is_optional_tensor_list(value)) {
      for (const c10::IValue& given : value.toListRef()) {
        visit(argument, given.isTensor() ? given.toTensor() : at::Tensor());
      }
    }
  }
}

inline bool on_device(const at::Tensor& tensor) {
  return tensor.defined() && tensor.device().type() == kType;
}

// Raises where the operands are on different devices.
void check_operands(const Call& call);
void check_sparse_operands(const Call& call);

// Raises for what the device has a kernel for, but not for these dtypes, shapes or options.
void check_refusals(const Call& call);

} // namespace simulated
