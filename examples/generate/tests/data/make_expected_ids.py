#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes expected_ids.json: what an independent implementation makes of the same file.

  python3 -m venv venv && venv/bin/pip install torch transformers accelerate gguf sentencepiece protobuf
  venv/bin/python make_expected_ids.py SmolLM2-135M-Instruct.Q4_1.gguf > expected_ids.json
  venv/bin/python make_expected_ids.py gemma-3-270m-q4_k_m.gguf > expected_gemma3_ids.json

The model is run by transformers in f32, greedily, a token at a time. Text is tokenised from what the file holds: by
the tokenizers library from vocabulary and merges (SmolLM2: digits one by one, then GPT-2's byte-level BPE), or by
sentencepiece from pieces and scores (Gemma). For each prompt:

  prompt_ids      of the text, or with "chat" of the text in the chat template
  output_ids      the greedy continuation; ends with the token that ended the text, if one did
  top_logits      the score of each output id
  close_steps     steps at which the two highest scores are closer than 0.02: another order of summation may
                  choose the other one there
  compare_until   the first of them, or the number of output ids
  mean_negative_log   of the prompt's own tokens after the first, as --perplexity measures it
"""
import json
import os
import sys

import torch
from gguf import GGUFReader
from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM

CLOSE = 0.02

STORY = (
    "The lighthouse stood at the end of a narrow spit of land, and for sixty years the same family had kept it. "
    "Every evening at dusk the keeper climbed the 199 steps, wound the clockwork, trimmed the wick and lit the lamp. "
    "Ships passed in the night, far out, and never knew his name. On the 3rd of March 1887 a storm came in from the "
    "north-west; by ten o'clock the spray was striking the gallery windows, 40 metres above the rocks. "
)
CODE = '''#include <vector>

// Returns the sum of squares.
template <class T>
T sum_of_squares(const std::vector<T>& values) {
    T sum = 0;
\tfor (size_t i = 0; i < values.size(); ++i) {
        sum += values[i] * values[i];   // 0x1F, 1e-5, 3.14f
    }
    return sum;
}

int main() {
'''

# name, text, whether in the chat template, tokens to generate
SMOLLM2_PROMPTS = [
    ("plain", "The capital of France is", False, 48),
    ("code", CODE, False, 48),
    ("python", "def fibonacci(n):\n    if n <= 1:\n        return n\n", False, 48),
    ("digits", "Pi is 3.14159265358979 and 2^10 = 1024, so 12345 + 67890 = ", False, 48),
    ("accents", "Café déjà vu : à l'époque, les élèves français étaient très", False, 48),
    ("cjk", "日本の首都は東京です。中国的首都是北京。대한민국의 수도는", False, 48),
    ("emoji", "I love 🍕 and 🎉🎉! 👩‍👩‍👧‍👦 🇫🇷 My favourite emoji is", False, 48),
    ("spaces", "  multiple   spaces    here\n\n\n\tand\t\ttabs \r\n   at 7  9   the   end   ", False, 48),
    ("scripts", "Привет, мир! مرحبا बिल्ली ½ ² Ⅷ ٣ Ωmega\u00a0no-break\u3000wide", False, 48),
    ("contractions", "I'm sure they've said we'll go; it's what she'd do, isn't it? DON'T 'RE", False, 48),
    ("special", "<|im_start|>user\nList three colours.<|im_end|>\n<|im_start|>assistant\n", False, 48),
    ("long", STORY * 6 + "Summary:", False, 48),
    ("chat", "What is the capital of France?", True, 48),
    ("chat_400", "Tell me a long story about a robot who learns to paint.", True, 400),
]

# As SmolLM2's, less what only its template needs; "long" is longer than the window of 512.
GEMMA3_PROMPTS = [(name, text, False, 24) for name, text, is_chat, _ in SMOLLM2_PROMPTS if not is_chat]
GEMMA3_PROMPTS += [
    ("html", "<h1>A title</h1>\n\n\n<table><tr><td>1</td></tr></table>\n\n\n\n<!-- end -->", False, 24),
    ("runs", "a" + 40 * " " + "b" + 5 * "\n" + 70 * " " + "c\t\t\td e  ", False, 24),
]


def chat(text):
    return (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
    )


class BytePair:
    """SmolLM2's tokeniser."""

    end_ids = {0, 2}  # <|endoftext|>, <|im_end|>
    prompts = SMOLLM2_PROMPTS

    def __init__(self, fields):
        tokens = fields["tokenizer.ggml.tokens"].contents()
        types = fields["tokenizer.ggml.token_type"].contents()
        merges = [tuple(m.split(" ")) for m in fields["tokenizer.ggml.merges"].contents()]
        self.tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
        self.tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        self.tokenizer.decoder = decoders.ByteLevel()
        self.tokenizer.add_special_tokens(
            [AddedToken(t, special=True) for t, kind in zip(tokens, types) if kind == 3]
        )

    def encode(self, text):
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=True)


class Pieces:
    """Gemma's tokeniser: a sentencepiece model put together again."""

    end_ids = {1, 106}  # <eos>, <end_of_turn>
    prompts = GEMMA3_PROMPTS

    def __init__(self, fields):
        proto = sentencepiece_model_pb2.ModelProto()
        kinds = sentencepiece_model_pb2.ModelProto.SentencePiece
        tokens = fields["tokenizer.ggml.tokens"].contents()
        types = fields["tokenizer.ggml.token_type"].contents()
        scores = fields["tokenizer.ggml.scores"].contents()
        for i, (token, kind, score) in enumerate(zip(tokens, types, scores)):
            kind = kinds.UNKNOWN if token == "<unk>" else kind
            # The file spells the spaces of these as they are in texts.
            token = token.replace(" ", "\u2581") if kind == kinds.USER_DEFINED else token
            proto.pieces.add(piece=token, score=score, type=kind)
        spec = proto.trainer_spec
        spec.model_type, spec.byte_fallback, spec.vocab_size = spec.BPE, True, len(tokens)
        spec.pad_id, spec.eos_id, spec.bos_id, spec.unk_id = 0, 1, 2, 3
        normal = proto.normalizer_spec
        normal.name, normal.escape_whitespaces = "identity", True
        normal.add_dummy_prefix, normal.remove_extra_whitespaces = False, False
        self.processor = SentencePieceProcessor(model_proto=proto.SerializeToString())

    def encode(self, text):
        return [2] + self.processor.encode(text)

    def decode(self, ids):
        return self.processor.decode([i for i in ids if i not in self.end_ids])


def generate(model, prompt_ids, count, end_ids):
    ids, scores, close = [], [], []
    cache, feed = None, prompt_ids
    while len(ids) < count:
        out = model(torch.tensor([feed]), past_key_values=cache, use_cache=True)
        cache = out.past_key_values
        values, best = out.logits[0, -1].topk(2)
        if values[0] - values[1] < CLOSE:
            close.append(len(ids))
        ids.append(int(best[0]))
        scores.append(round(float(values[0]), 4))
        feed = ids[-1:]
        if ids[-1] in end_ids:
            break
    return ids, scores, close


def mean_negative_log(model, ids):
    logits = model(torch.tensor([ids])).logits[0, :-1].double()
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])))


def main():
    path = os.path.abspath(sys.argv[1])
    fields = GGUFReader(path).fields
    kind = fields["tokenizer.ggml.model"].contents()
    tokenizer = {"gpt2": BytePair, "llama": Pieces}[kind](fields)
    model = AutoModelForCausalLM.from_pretrained(
        os.path.dirname(path), gguf_file=os.path.basename(path), dtype=torch.float32
    ).eval()
    print(model.config, file=sys.stderr)
    prompts = []
    for name, text, is_chat, count in tokenizer.prompts:
        prompt_ids = tokenizer.encode(chat(text) if is_chat else text)
        with torch.no_grad():
            ids, scores, close = generate(model, prompt_ids, count, tokenizer.end_ids)
            measured = mean_negative_log(model, prompt_ids)
        decoded = tokenizer.decode(ids)
        print(f"{name}: {len(prompt_ids)} -> {len(ids)}, close at {close}\n{decoded}\n", file=sys.stderr)
        prompts.append(
            {
                "name": name,
                "text": text,
                "chat": is_chat,
                "prompt_ids": prompt_ids,
                "output_ids": ids,
                "output_text": decoded,
                "top_logits": scores,
                "close_steps": close,
                "compare_until": close[0] if close else len(ids),
                "mean_negative_log": round(measured, 6),
            }
        )
    lines = ",\n".join(json.dumps(p, ensure_ascii=True) for p in prompts)
    print('{"close": %g, "prompts": [\n%s\n]}' % (CLOSE, lines))


main()
