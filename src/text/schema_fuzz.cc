// A client's JSON schema on its whole way: checked, rewritten, made a grammar by llama.cpp, and
// that checked again. Nothing of it may crash, and what passed must stay within its limits.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "base/check.h"
#include "text/constraint_cache.h"
#include "text/constraint_limits.h"
#include "text/gbnf_rules.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace penstock::text;
  const std::string_view schema(reinterpret_cast<const char*>(data), size);
  ConstraintCache cache;
  const auto made = cache.find(schema, "tools");
  if (!made || schema.empty()) return 0;
  CHECK(!made->gbnf.empty());
  CHECK(check_gbnf(made->gbnf).has_value());
  CHECK(read_gbnf(made->gbnf, "tools").has_value());
  CHECK_LE(made->steps, 2 * kStackSearchMax + 50 * kOptionalPairsMax);
  const auto again = cache.find(schema, "tools");
  CHECK(again.has_value());
  CHECK_EQ(again->gbnf.size(), made->gbnf.size());
  return 0;
}
