// SPDX-License-Identifier: Apache-2.0
#include "serve.hpp"

#include <chrono>
#include <istream>
#include <memory>
#include <ostream>
#include <sstream>
#include <stdexcept>

#include "subject.hpp"

namespace bench {
namespace {

template <class T>
std::unique_ptr<Subject> from_files(const Shape& s, Index layers, std::istream& files) {
  std::string q, k, v;
  files >> q >> k >> v;
  Inputs<T> inputs{read_tensor<T>(q, s.sequences(), s.queries(), s.H, s.D),
                   read_tensor<T>(k, s.sequences(), s.tokens(), s.G, s.D),
                   read_tensor<T>(v, s.sequences(), s.tokens(), s.G, s.D)};
  if (s.kind == "backward") {
    if constexpr (std::is_same_v<T, float>) return make_backward(s, std::move(inputs));
    throw std::runtime_error("backward is measured in f32");
  }
  return make_attention<T>(s, layers, std::move(inputs));
}

class Server {
 public:
  std::string answer(const std::string& request) {
    std::istringstream words(request);
    std::string verb;
    words >> verb;
    if (verb == "case") return make(words);
    if (!subject_) throw std::runtime_error("there is no case yet");
    if (verb == "run") return run(words);
    if (verb == "output") {
      std::string file;
      words >> file;
      subject_->save_output(file);
      return "ok";
    }
    throw std::runtime_error("unknown request '" + verb + "'");
  }

 private:
  std::string make(std::istream& words) {
    std::string name;
    Index layers = 0;
    words >> name >> layers;
    const auto shape = Shape::parse(name);
    if (!shape || layers < 1) throw std::runtime_error("not a case: '" + name + "'");
    subject_.reset();
    pool_.reset();
    if (shape->dtype == Dtype::f16)
      subject_ = from_files<gqa::half>(*shape, layers, words);
    else if (shape->dtype == Dtype::bf16)
      subject_ = from_files<gqa::bfloat16>(*shape, layers, words);
    else
      subject_ = from_files<float>(*shape, layers, words);
    if (shape->threads > 1) pool_ = std::make_unique<Eigen::ThreadPool>(shape->threads);
    return "ok";
  }

  std::string run(std::istream& words) {
    int times = 0;
    words >> times;
    if (times < 1) throw std::runtime_error("run how often?");
    const auto start = std::chrono::steady_clock::now();
    for (int i = 0; i < times; ++i) subject_->run(pool_.get());
    const std::chrono::duration<double, std::milli> elapsed = std::chrono::steady_clock::now() - start;
    return std::to_string(elapsed.count() / times);
  }

  std::unique_ptr<Subject> subject_;
  std::unique_ptr<Eigen::ThreadPool> pool_;
};

}  // namespace

int serve(std::istream& in, std::ostream& out) {
  Server server;
  for (std::string request; std::getline(in, request);) {
    try {
      out << server.answer(request) << std::endl;
    } catch (const std::exception& error) {
      out << "error: " << error.what() << std::endl;
    }
  }
  return 0;
}

}  // namespace bench
