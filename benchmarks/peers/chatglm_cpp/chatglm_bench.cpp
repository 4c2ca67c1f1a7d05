// Prefill and decode speed of chatglm.cpp, one request at a time, which is all that it offers.
//
//     chatglm_bench MODEL PROMPT_TOKENS[,...] NEW_TOKENS REPEAT
//
// Prints one JSON object a line, one for each run; a short run before them is warm-up and is not printed.
// chatglm.cpp takes a thread per core that the process may use, up to four (taskset limits them).

#include "chatglm.h"

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <string>
#include <vector>

namespace {

using Clock = std::chrono::steady_clock;

// Remembers when each token came. The first call of put() hands over the prompt, each later one a token.
class Stopwatch : public chatglm::BaseStreamer {
  public:
    void put(const std::vector<int> &) override { times_.push_back(Clock::now()); }
    void end() override {}

    int tokens() const { return static_cast<int>(times_.size()) - 1; }
    double prefill_seconds() const { return seconds(times_[0], times_[1]); }
    double decode_seconds() const { return seconds(times_[1], times_.back()); }

  private:
    static double seconds(Clock::time_point from, Clock::time_point to) {
        return std::chrono::duration<double>(to - from).count();
    }
    std::vector<Clock::time_point> times_;
};

// Letters and digits of any vocabulary, then the two control tokens that every prompt of ChatGLM-6B ends with.
std::vector<int> prompt_of(int num_tokens) {
    std::vector<int> ids;
    for (int i = 0; i < num_tokens - 2; i++) {
        ids.push_back(100 + i % 1000);
    }
    ids.push_back(130001);
    ids.push_back(130004);
    return ids;
}

Stopwatch answer(const chatglm::Pipeline &pipeline, int prompt_tokens, int new_tokens) {
    chatglm::GenerationConfig config;
    config.max_length = pipeline.model->config.max_length;
    config.max_new_tokens = new_tokens;
    config.do_sample = false;
    Stopwatch stopwatch;
    pipeline.generate(prompt_of(prompt_tokens), std::nullopt, config, &stopwatch);
    return stopwatch;
}

std::vector<int> numbers(const std::string &text) {
    std::vector<int> values;
    std::istringstream stream(text);
    for (std::string word; std::getline(stream, word, ',');) {
        values.push_back(std::atoi(word.c_str()));
    }
    return values;
}

} // namespace

int main(int argc, char **argv) {
    if (argc != 5) {
        std::cerr << "usage: chatglm_bench MODEL PROMPT_TOKENS[,...] NEW_TOKENS REPEAT\n";
        return 2;
    }
    try {
        chatglm::Pipeline pipeline(argv[1]);
        const int new_tokens = std::atoi(argv[3]);
        answer(pipeline, 16, 4);
        for (int repeat = 0; repeat < std::atoi(argv[4]); repeat++) {
            for (const int prompt_tokens : numbers(argv[2])) {
                const Stopwatch run = answer(pipeline, prompt_tokens, new_tokens);
                std::printf("{\"prompt_tokens\": %d, \"new_tokens\": %d, \"prefill_seconds\": %.6f, "
                            "\"decode_seconds\": %.6f}\n",
                            prompt_tokens, run.tokens(), run.prefill_seconds(), run.decode_seconds());
                std::fflush(stdout);
            }
        }
    } catch (const std::exception &error) {
        std::cerr << "chatglm_bench: " << error.what() << '\n';
        return 1;
    }
    return 0;
}
