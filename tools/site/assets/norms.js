/* Batch norm as bn_helpers/norms.py has it, for one feature: arrays of N numbers.
   A test compares the two to 12 digits. */
const Norms = {
  mean(x) {
    return x.reduce((sum, value) => sum + value, 0) / x.length;
  },

  /* biased: divides by N */
  variance(x) {
    const mu = Norms.mean(x);
    return Norms.mean(x.map((value) => (value - mu) ** 2));
  },

  batchnorm(x, gamma = 1, beta = 0, eps = 1e-5) {
    return Norms.inference(x, gamma, beta, Norms.mean(x), Norms.variance(x), eps);
  },

  inference(x, gamma, beta, mean, variance, eps = 1e-5) {
    const std = Math.sqrt(variance + eps);
    return x.map((value) => (gamma * (value - mean)) / std + beta);
  },

  /* standard deviation after normalizing, from the one before */
  spreadAfter(std, eps) {
    return std / Math.sqrt(std ** 2 + eps);
  },

  /* after the first `updates` batches; the stored variance is the unbiased one */
  runningStatistics(mu, variance, updates, N, momentum = 0.1) {
    let mean = 0, stored = 1;
    for (let t = 0; t < updates; t++) {
      mean = (1 - momentum) * mean + momentum * mu[t];
      stored = (1 - momentum) * stored + (momentum * variance[t] * N) / (N - 1);
    }
    return { mean, variance: stored };
  },
};

if (typeof module !== "undefined") module.exports = Norms;
