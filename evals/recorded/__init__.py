"""Published tables reproduced from recorded model outputs: one module and one command each.

    python -m evals.recorded.game24           GPT-4 on Game of 24 (2305.10601)
    python -m evals.recorded.llama_aime24     Llama-3.2-3B on AIME 2024, two checkpoints, paired
    python -m evals.recorded.qwen_math100     Qwen2.5-Math on 100 MATH problems with its reward model
    python -m evals.recorded.gsm8k_examples   GPT-3 on GSM8K with and without a verifier (2110.14168)
    python -m evals.recorded.zeroeval         44 models on GSM8K as one ensemble

Each needs the data folder: --data FOLDER or the environment variable REASONING_DATA.
"""
