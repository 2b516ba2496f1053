"""Publishes from a Hugging Face Trainer: one callback, no loop of one's own.

    weft catalog --listen 127.0.0.1:6470
    python examples/train_hf_trainer.py --catalog 127.0.0.1:6470 --model tiny

A tiny Llama with random weights, three steps. Prints one line a version. The
same callback goes into the trainers of TRL. Needs transformers and accelerate.
"""

import argparse
import sys
import tempfile

import torch
import transformers

import weft.callbacks


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--catalog", required=True, help="HOST:PORT")
    parser.add_argument("--model", required=True)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--save", metavar="DIR",
                        help="write the trained checkpoint here")
    parser.add_argument("--hold", action="store_true",
                        help="keep the last version until a line on stdin")
    return parser.parse_args()


def tiny_model():
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(
        hidden_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=96, vocab_size=260,
        tie_word_embeddings=False, dtype="bfloat16")).to(torch.bfloat16)


def main():
    args = arguments()
    model = tiny_model()
    rows = torch.randint(0, 260, (8 * args.steps, 16))
    callback = weft.callbacks.hf_callback(
        args.catalog, args.model, every=args.every,
        on_publish=lambda report: print(report, flush=True))
    with tempfile.TemporaryDirectory() as folder:
        trainer = transformers.Trainer(
            model=model, callbacks=[callback],
            train_dataset=[{"input_ids": row, "labels": row} for row in rows],
            args=transformers.TrainingArguments(
                folder, max_steps=args.steps, learning_rate=0.01,
                save_strategy="no", report_to="none", disable_tqdm=True,
                use_cpu=True))
        trainer.train()
    if args.save:
        model.save_pretrained(args.save)
    if args.hold:
        print("held", flush=True)
        sys.stdin.readline()
    callback.close()


if __name__ == "__main__":
    main()
