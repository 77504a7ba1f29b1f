#pragma once

#include <functional>
#include <string>
#include <string_view>

class common_json;  // llama.cpp's

namespace penstock::text {

/// Whether a JSON text may have a name; false: it has not.
[[nodiscard]] bool may_have(std::string_view json, std::string_view name);

/// Whether what stands under `keyword` is a value, whatever it looks like.
[[nodiscard]] bool holds_value(std::string_view keyword);

/// Whether the fields of what stands under `keyword` are schemas, whatever their names.
[[nodiscard]] bool holds_names(std::string_view keyword);

/// Whether that keyword's schemas are there for references alone.
[[nodiscard]] bool holds_definitions(std::string_view keyword);

using VisitNode = std::function<void(common_json& node)>;

/// Calls `visit` for each schema in `node`, wherever one may stand, after those within it. As deep
/// as check_schema() lets schemas nest.
void for_each_schema(common_json& node, const VisitNode& visit);

/// The same for the text of each `$ref`.
void for_each_ref(common_json& root, const VisitNode& visit);

/// Makes each place that a reference of `root` names a definition of its own, where `name_of` gives
/// a name for the reference ("" does not). False: there was none. A reference that leads nowhere
/// stays as it is. `alone`: the definitions that there were go.
bool define_targets(common_json& root, bool alone,
                    const std::function<std::string(std::string_view ref)>& name_of);

}  // namespace penstock::text
