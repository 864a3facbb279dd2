#!/bin/sh
# A BERT tokenizer replaces a Thai sentence of more than 100 characters by one unknown token.
#
# A good engineer would expect:
#   A text is cut into the longest pieces of the vocabulary, so that a vocabulary that has all its
#   pieces leaves nothing unknown.
# What happens:
#   WordPiece gives up on a word of more than 100 characters (max_input_chars_per_word), and a word is
#   what stands between blanks and punctuation. Chinese characters are set apart first. Thai, Lao,
#   Khmer and Burmese, which are written without blanks as well, are not: a whole sentence is one
#   word. With 95 characters it has 3 tokens, with 114 it is [UNK] alone, and nothing is left of it.
# What to do:
#   Cut such texts into words first, or raise max_input_chars_per_word.
# Versions (Python 3.11):
#   tokenizers==0.23.3
# Output:
#   Thai, 19 characters: 1 tokens, 0 of them unknown
#   Thai, 95 characters: 3 tokens, 0 of them unknown
#   Thai, 114 characters: 1 tokens, 1 of them unknown
#   Chinese, 180 characters: 180 tokens, 0 of them unknown
set -eu
pins="tokenizers==0.23.3"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM
mkdir -p "${FINDINGS_VENVS:-$work}"
venv="$(cd "${FINDINGS_VENVS:-$work}" && pwd)/$(printf '%s' "$pins" | cksum | cut -d ' ' -f 1)"
if [ ! -f "$venv/ready" ]; then
    python3 -m venv --clear "$venv"
    # shellcheck disable=SC2086
    "$venv/bin/pip" install -qq --disable-pip-version-check $pins
    touch "$venv/ready"
fi
cd "$work"
export CUDA_VISIBLE_DEVICES=-1 TF_CPP_MIN_LOG_LEVEL=3
cat >finding.py <<'END'
from tokenizers import BertWordPieceTokenizer

SENTENCE = "ไปโรงเรียนกับเพื่อน"  # goes to school with a friend
CHINESE = "我和朋友一起去学校"
tokenizer = BertWordPieceTokenizer(lowercase=False)
texts = [SENTENCE * 6, SENTENCE[1:] * 2, CHINESE]
tokenizer.train_from_iterator(texts, vocab_size=300, min_frequency=1, show_progress=False)
seen = {}
for name, text in (("Thai", SENTENCE), ("Thai", SENTENCE * 5), ("Thai", SENTENCE * 6), ("Chinese", CHINESE * 20)):
    tokens = tokenizer.encode(text, add_special_tokens=False).tokens
    seen[name, len(text)] = (len(tokens), tokens.count("[UNK]"))
    print(f"{name}, {len(text)} characters: {len(tokens)} tokens, {tokens.count('[UNK]')} of them unknown")
assert seen["Thai", 19][1] == seen["Thai", 95][1] == seen["Chinese", 180][1] == 0
assert seen["Thai", 114] == (1, 1), seen
END
"$venv/bin/python" finding.py 2>stderr.txt || {
    tail -n 20 stderr.txt >&2
    exit 1
}
