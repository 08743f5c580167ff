// SPDX-License-Identifier: Apache-2.0
// Trains one attention layer to give, at each token, the token before it; the program of the README.
#include <gqa/gqa.hpp>
#include <iostream>

using Matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

int main() {
  constexpr gqa::Index n = 32, V = 8, H = 2, G = 1, D = 8;  // two heads share K and V
  Matrix wq = Matrix::Random(H * D, V), wk = Matrix::Random(G * D, V), wv = Matrix::Random(G * D, V);
  Matrix wo = Matrix::Random(V, H * D), bq = Matrix::Random(1, H * D), bk = Matrix::Random(1, G * D);
  gqa::Rope rope({.layout = gqa::RopeLayout::half, .head_dim = D, .theta = 100});
  gqa::AttentionLayer<> layer({.q = {wq, bq.row(0)}, .k = {wk, bk.row(0)}, .v = {wv}, .output = {wo}},
                              {.num_q_heads = H, .num_kv_heads = G, .head_dim = D, .rope = rope});
  gqa::LayerMemory<> memory;
  gqa::AttentionTape<> tape;
  gqa::AttentionGradients<> d;
  float loss = 0;
  for (int step = 0; step <= 800; ++step) {
    Matrix x = Matrix::Zero(n, V), y(n, V), dy(n, V);
    for (gqa::Index t = 0; t < n; ++t) x(t, std::rand() % V) = 1;
    tape.forward(gqa::Serial{}, layer, memory, x, y, gqa::causal());
    dy << Matrix::Zero(1, V), (y.bottomRows(n - 1) - x.topRows(n - 1)) / n;  // y is to be the token before
    loss = n * dy.squaredNorm();
    if (step % 200 == 0) std::cout << "step " << step << ": loss " << std::round(10 * loss) / 10 << "\n";
    tape.backward(gqa::Serial{}, layer, memory, dy, d, gqa::causal());
    wq -= d.q.map(), wk -= d.k.map(), wv -= d.v.map(), wo -= d.output.map();
    bq -= d.q_bias.map(), bk -= d.k_bias.map();
  }
  return loss < 0.01f ? 0 : 1;
}
