#include <bit>
#include <cmath>

#include "api/internal/json_text.h"
#include "api/openai.h"

namespace penstock::api {
namespace {

void append_vector(std::string& out, const std::vector<float>& vector) {
  out += '[';
  for (std::size_t i = 0; i < vector.size(); ++i) {
    if (i > 0) out += ',';
    if (std::isfinite(vector[i])) {
      append_float(out, vector[i]);
    } else {
      out += "null";
    }
  }
  out += ']';
}

void append_vector_base64(std::string& out, const std::vector<float>& vector) {
  static_assert(std::endian::native == std::endian::little, "the wire wants little-endian floats");
  out += '"';
  append_base64(
      out, {reinterpret_cast<const unsigned char*>(vector.data()), vector.size() * sizeof(float)});
  out += '"';
}

void append_model(std::string& out, const ModelCard& model) {
  out += R"({"id":)";
  append_json_string(out, model.id);
  out += R"(,"object":"model","created":)";
  append_int(out, model.created);
  out += R"(,"owned_by":"penstock")";
  if (model.context_tokens_max > 0) {
    out += R"(,"max_model_len":)";
    append_int(out, model.context_tokens_max);
  }
  out += '}';
}

}  // namespace

std::string error_body(const Error& error) {
  std::string out = R"({"error":{"message":)";
  append_json_string(out, error.message);
  out += R"(,"type":)";
  append_json_string(out, openai_type(error.code));
  out += R"(,"param":)";
  if (error.param.empty()) {
    out += "null";
  } else {
    append_json_string(out, error.param);
  }
  out += R"(,"code":)";
  append_json_string(out, openai_code(error.code));
  out += "}}";
  return out;
}

std::string embedding_answer(std::string_view model, const std::vector<std::vector<float>>& vectors,
                             bool base64, std::uint32_t prompt_tokens) {
  std::string out = R"({"object":"list","data":[)";
  for (std::size_t i = 0; i < vectors.size(); ++i) {
    if (i > 0) out += ',';
    out += R"({"object":"embedding","index":)";
    append_int(out, i);
    out += R"(,"embedding":)";
    if (base64) {
      append_vector_base64(out, vectors[i]);
    } else {
      append_vector(out, vectors[i]);
    }
    out += '}';
  }
  out += R"(],"model":)";
  append_json_string(out, model);
  out += R"(,"usage":{"prompt_tokens":)";
  append_int(out, prompt_tokens);
  out += R"(,"total_tokens":)";
  append_int(out, prompt_tokens);
  out += "}}";
  return out;
}

std::string model_body(const ModelCard& model) {
  std::string out;
  append_model(out, model);
  return out;
}

std::string model_list(const std::vector<ModelCard>& models) {
  std::string out = R"({"object":"list","data":[)";
  for (std::size_t i = 0; i < models.size(); ++i) {
    if (i > 0) out += ',';
    append_model(out, models[i]);
  }
  out += "]}";
  return out;
}

}  // namespace penstock::api
