// A node of libtorch's graph whose gradients a function from outside computes.

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/version.h>

#include <algorithm>
#include <cstring>
#include <exception>
#include <string>
#include <vector>

using at::Tensor;
using torch::autograd::Node;
using torch::autograd::variable_list;

extern "C" {
// Writes the gradients of the inputs that are wanted, each a tensor that the caller deletes, or null; returns false with a
// message where that fails.
using Gradients = bool (*)(
    const void *state, Tensor *gradient, const bool *wanted, Tensor **gradients, size_t count, char *message, size_t room);
using Drop = void (*)(void *state);
}

namespace {

struct OutsideNode : Node {
  OutsideNode(void *state, Gradients gradients, Drop drop) : state(state), gradients(gradients), drop(drop) {}
  ~OutsideNode() override { release_variables(); }

  std::string name() const override { return "PersonaNode"; }

  void release_variables() override {
    if (state) drop(state);
    state = nullptr;
  }

  variable_list apply(variable_list &&arrived) override {
    TORCH_CHECK(state, "a graph is used a second time, after a backward pass has freed it");
    TORCH_CHECK(!at::GradMode::is_enabled(), "second derivatives are not there: create_graph has to be false");
    const size_t count = num_outputs();
    variable_list results(count);
    if (!arrived.at(0).defined()) return results;
    auto wanted = std::make_unique<bool[]>(count);
    for (size_t i = 0; i < count; i++) wanted[i] = task_should_compute_output(i);
    std::vector<Tensor *> raw(count, nullptr);
    char message[512] = "";
    const bool done = gradients(state, &arrived[0], wanted.get(), raw.data(), count, message, sizeof message);
    for (size_t i = 0; i < count; i++) {
      if (!raw[i]) continue;
      results[i] = std::move(*raw[i]);
      delete raw[i];
    }
    TORCH_CHECK(done, std::string(message));
    return results;
  }

  void *state;
  Gradients gradients;
  Drop drop;
};

} // namespace

extern "C" {

const char *persona_torch_version() { return TORCH_VERSION; }

// Whether a result of these inputs takes part in the graph.
bool persona_autograd_records(Tensor *const *inputs, size_t count) {
  return at::GradMode::is_enabled() &&
      std::any_of(inputs, inputs + count, [](const Tensor *input) { return input->requires_grad(); });
}

// Makes an output, which has no graph yet, a result of the inputs. The state is dropped with the graph, or here where this
// fails; then false is returned, with a message.
bool persona_autograd_attach(
    Tensor *output, Tensor *const *inputs, size_t count, void *state, Gradients gradients, Drop drop, char *message,
    size_t room) {
  try {
    std::shared_ptr<OutsideNode> node(new OutsideNode(state, gradients, drop), torch::autograd::deleteNode);
    variable_list from;
    for (size_t i = 0; i < count; i++) from.push_back(*inputs[i]);
    node->set_next_edges(torch::autograd::collect_next_edges(from));
    torch::autograd::set_history(*output, node);
    return true;
  } catch (const std::exception &error) {
    std::strncpy(message, error.what(), room - 1);
    message[room - 1] = 0;
    return false;
  }
}

} // extern "C"
