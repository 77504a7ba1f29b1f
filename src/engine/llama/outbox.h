#pragma once

#include <utility>
#include <vector>

#include "engine/engine.h"

namespace penstock::engine::llama {

/// A step's outputs, gathered by sink so that each is called once.
class Outbox final {
 public:
  void add(OutputSink* sink, Output output) {
    for (auto& [known, outputs] : by_sink_) {
      if (known == sink) {
        outputs.push_back(std::move(output));
        return;
      }
    }
    by_sink_.emplace_back(sink, std::vector<Output>{}).second.push_back(std::move(output));
  }
  void deliver() {
    for (auto& [sink, outputs] : by_sink_) {
      if (outputs.empty()) continue;
      sink->deliver(outputs);
      outputs.clear();
    }
  }
  void forget_sinks() { by_sink_.clear(); }  // a sink may die once its last request has ended

 private:
  std::vector<std::pair<OutputSink*, std::vector<Output>>> by_sink_;
};

}  // namespace penstock::engine::llama
