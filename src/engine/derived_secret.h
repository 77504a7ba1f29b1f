#pragma once

#include <string>
#include <string_view>

namespace penstock::engine {

/// What is shown or proved for one purpose in place of the secret that workers and front ends
/// share: the HMAC-SHA256 of the purpose's name under it, as 64 hexadecimal digits. Who learns one
/// knows neither the secret, unless it can be guessed, nor what is shown for another purpose. Empty
/// without a secret. Thread: any.
[[nodiscard]] std::string derived_secret(std::string_view secret, std::string_view purpose);

}  // namespace penstock::engine
