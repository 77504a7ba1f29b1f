#include "transfer/internal/tcp_wire.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <sys/random.h>

#include <algorithm>

#include "base/check.h"

namespace penstock::transfer::wire {
namespace {

using Bytes = std::vector<unsigned char>;

template <class T>
void append(Bytes& bytes, const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  const auto view = std::as_bytes(std::span(&value, 1));
  std::ranges::transform(view, std::back_inserter(bytes),
                         [](std::byte byte) { return static_cast<unsigned char>(byte); });
}

Proof hmac(std::string_view secret, const Bytes& text) {
  Proof proof{};
  unsigned size = 0;
  const unsigned char* done =
      HMAC(EVP_sha256(), secret.data(), static_cast<int>(secret.size()), text.data(), text.size(),
           reinterpret_cast<unsigned char*>(proof.data()), &size);
  CHECK(done != nullptr && size == proof.size());
  return proof;
}

/// What both proofs are about; the role keeps one from serving as the other.
Bytes transcript(std::string_view role, const Challenge& challenge, const Response& response) {
  Bytes text(role.begin(), role.end());
  append(text, kVersion);
  append(text, challenge.nonce);
  append(text, response.nonce);
  append(text, response.compatibility.size);
  append(text, response.compatibility.text);
  return text;
}

}  // namespace

Proof reader_proof(std::string_view secret, const Challenge& challenge, const Response& response) {
  return hmac(secret, transcript("penstock transfer reader", challenge, response));
}

Proof owner_proof(std::string_view secret, const Challenge& challenge, const Response& response,
                  const Verdict& verdict) {
  Bytes text = transcript("penstock transfer owner", challenge, response);
  const Layout& layout = verdict.offer.layout;
  append(text, verdict.answer);
  append(text, verdict.offer.epoch);
  for (const std::uint64_t number :
       {std::uint64_t{layout.slots}, std::uint64_t{layout.parts}, std::uint64_t{layout.part_bytes},
        layout.slot_stride_bytes, layout.part_stride_bytes, layout.offset_bytes}) {
    append(text, number);
  }
  return hmac(secret, text);
}

bool equal(const Proof& a, const Proof& b) noexcept {
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

Result<Nonce> draw_nonce() {
  Nonce nonce;
  if (getrandom(nonce.data(), nonce.size(), 0) != static_cast<ssize_t>(nonce.size())) {
    return fail(Code::kUnavailable, "the system gives no random numbers");
  }
  return nonce;
}

void Pieces::add(const void* data, std::size_t size_bytes) {
  if (size_bytes == 0) return;
  if (!pieces_.empty()) {
    iovec& last = pieces_.back();
    if (static_cast<const std::byte*>(last.iov_base) + last.iov_len == data) {
      last.iov_len += size_bytes;
      return;
    }
  }
  pieces_.push_back({const_cast<void*>(data), size_bytes});
}

void Pieces::advance(std::size_t size_bytes) noexcept {
  while (size_bytes > 0) {
    iovec& front = pieces_[first_];
    const std::size_t taken = std::min(size_bytes, front.iov_len);
    front.iov_base = static_cast<std::byte*>(front.iov_base) + taken;
    front.iov_len -= taken;
    size_bytes -= taken;
    if (front.iov_len == 0) ++first_;
  }
}

}  // namespace penstock::transfer::wire
