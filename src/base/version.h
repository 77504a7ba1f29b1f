#pragma once

namespace penstock {

inline constexpr const char* kVersion = PENSTOCK_VERSION;  // set by the build from project()

}  // namespace penstock
