#!/usr/bin/env python3
"""Makes tests/testdata/tokenizer/: small tokenizer.json files and a file of ranks, trained on the spot, and what the
`tokenizers` and `tiktoken` packages give for a corpus of awkward texts.

Needs (PyPI): tokenizers==0.23.3 tiktoken==0.14.0 sentencepiece==0.2.3 gguf==0.19.0 jinja2==3.1.6.
Usage: make_tokenizer_golden.py EMBEDDED_MODEL.gguf OUTPUT_FOLDER

Texts hold only code points assigned in Unicode 14: newer and older tables agree on those, and the libraries compared
here carry tables of different versions. The package's normalization knows less (its tables are about Unicode 9's), so
the texts of tokenizers that normalize leave out what it treats otherwise than Python; normalization itself is compared
with Python's. The result is the same on every run.
"""
import base64
import collections
import io
import json
import pathlib
import random
import sys
import unicodedata

import gguf
import jinja2
import jinja2.sandbox
import sentencepiece
import tiktoken
from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                        trainers)

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
          r"\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPACE = "\u2581"

SAMPLES = [
    "", " ", "a", "Hello, world!", "I'm sure they'll say it's what we've done; you'd better not. DON'T SHOUT, I'LL GO.",
    "don\u2019t '\u017f 'S 'Ll 'vE '\u212a \u017ftra\u00dfe", "The quick brown fox jumps over the lazy dog.",
    "  leading, trailing  ", "a  b   c    d\t\te\n\nf\r\ng\r\r\n h \n \n  i", "\n", "\r\n\r\n", " \n ", "   \n", "\t",
    "1234567890123456789012345678901234567890", "3.14159 1,000,000 0x1F 1e-9 \u00bd \u00b2 \u2167 \u0661\u0662\u0663",
    "def f(x):\n    return x**2  # \u03bb\n\n\nclass A:\n\tpass\n", "if(a&&b){c=d[e]->f;}//!?...---===",
    "Stra\u00dfe, na\u00efve caf\u00e9, \u0141\u00f3d\u017a, \u0130stanbul \u0131",
    "cafe\u0301 A\u030a \u212b \u1e9b\u0323 q\u0307\u0323 \ufb01 \u2460 \u00bd \uff21\uff22\uff23 \u3392",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440! \u0401\u0436\u0438\u043a", "\u0393\u03b5\u03b9\u03ac \u03c3\u03bf\u03c5 \u039a\u03cc\u03c3\u03bc\u03b5",
    "\u05e9\u05c1\u05b8\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05dc\u05dd", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0627\u0644\u0639\u0627\u0644\u0645 \u064b\u064c\u0651",
    "\u0928\u092e\u0938\u094d\u0924\u0947 \u0926\u0941\u0928\u093f\u092f\u093e", "\u0ba4\u0bae\u0bbf\u0bb4\u0bcd \u0d2e\u0d32\u0d2f\u0d3e\u0d33\u0d02",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e0a\u0e32\u0e27\u0e42\u0e25\u0e01", "\u4f60\u597d\uff0c\u4e16\u754c\uff01\u3000\u4eca\u5929\u5929\u6c14\u5f88\u597d\u3002",
    "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c \u30ab\u30bf\u30ab\u30ca \u304b\u3099 \uff76\uff9e", "\uc548\ub155\ud558\uc138\uc694 \u1112\u1161\u11ab\u1100\u1173\u11af",
    "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0 \u0540\u0561\u0575\u0565\u0580\u0567\u0576 \u12a0\u121b\u122d\u129b \u1780\u1798\u17d2\u1796\u17bb\u1787\u17b6 \u0f56\u0f7c\u0f51\u0f0b\u0f66\u0f90\u0f51\u0f0b",
    "\U0001f600\U0001f680 \U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466 \U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7 \U0001f44d\U0001f3fd\U0001f44d\U0001f3ff \u2764\ufe0f 1\ufe0f\u20e3",
    "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f \U0001d4d0\U0001d4d1 \U00010330 \U00020000\U0002a6d6",
    "Z\u0351\u036b\u0343\u036a\u0302\u036b\u033d\u034f\u0334\u0319\u0324\u031e\u0349\u035a\u032fA\u0300\u0301\u0302\u0323\u0331L\u0338", "\u0f73\u0f73\u0f75\u0f81 \u0344\u0345",
    "".join(map(chr, range(0x00, 0x21))) + "\x7f\x80\x85\x9f\xa0\xad",
    "\u1680\u180e\u2000\u200a\u200b\u200c\u200d\u2028\u2029\u202f\u205f\u2060\u3000\ufeff x\u180ey a\u180e\u180e b",
    "a\u00a0b\u3000c\u2003d  \u00a0 e", "\ue000\uf8ff\U000f0000\U0010fffd \ufffd\ufffe\uffff",
    "https://example.org/a?b=c&d=%20#x user@example.org C:\\dir\\file.txt", "~" * 40 + "\u2014" * 20 + "=" * 70 + " " * 70 + "x",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "supercalifragilisticexpialidocious antidisestablishmentarianism",
]
# Around the special tokens that every tokenizer below has.
SPECIALS = ["{0}", "{0}{1}", "{0} {1}", "x{0}y", " {0} ", "a {0}\n{1}b", "{0}user\nHello{1}\n", "{0}{0}{0}", "1{0}2",
            "   {0}   {1}   ", "\u00e9{0}e\u0301{1}\u0301"]
# Around the added tokens of the "added" tokenizer, which try every flag.
ADDED = ["word", "a word here", "sword words word", "word word", "\u00e9word", "word\u00e9", "word_", "-word-", "<l>", "a  <l>  b",
         "  <l>  <l>", "<r>", "a  <r>  b", "<r>  <l>  <r> \n x", "<lr>", "x \u3000\t<lr>\n\u00a0 y", "caf\u00e9!", "cafe\u0301!", "a caf\u00e9! b",
         "<raw\u00e9>", "<rawe\u0301>", "<a<ab<abc", "<abcd <ab <a", "\u212bngstrom", "\u00c5ngstrom", "A\u030angstrom", "<s><l>word<r></s>",
         "word<l>word", "word <lr> word", "\u2167word", "\u203fword", "\u200dword", "\u24d0word", "wordword"]


def assigned(code_point):
    """Assigned in the tables of this Python (14.0 or older) and encodable."""
    return not 0xD800 <= code_point <= 0xDFFF and unicodedata.category(chr(code_point)) not in ("Cn", "Cs")


def random_texts(count, seed):
    rng = random.Random(seed)
    everything = [c for c in range(0x110000) if assigned(c) and c < 0xE000 or 0xF900 <= c < 0xF0000 and assigned(c)]
    marks = [c for c in everything if unicodedata.combining(chr(c))]
    spaces = [0x20, 0x20, 0x20, 0x0A, 0x0D, 0x09, 0xA0, 0x3000, 0x2028, 0x180E, 0x85]
    pools = [everything, list(range(0x20, 0x7F)), spaces, marks, list(range(0x30, 0x3A)), list(range(0x1F300, 0x1F600)),
             list(range(0xAC00, 0xD7A4)), [ord(c) for c in "'stremvldSTREMVLD \u017f"], list(range(0x4E00, 0x9FFF)), list(range(0x61, 0x7B))]
    texts = []
    for _ in range(count):
        text = ""
        for _ in range(rng.randint(1, 12)):
            pool = rng.choice(pools)
            text += "".join(chr(rng.choice(pool)) for _ in range(rng.randint(1, 8)))
        texts.append(text)
    return texts


def unknown_to_normalizer(form):
    """Characters that the package normalizes otherwise than Python: alone, decomposed, or among other marks."""
    package = {"NFC": normalizers.NFC(), "NFKC": normalizers.NFKC()}[form]
    unknown = set()
    for c in map(chr, filter(assigned, range(0x110000))):
        probes = (c, "a\u0345" + c, "a" + c + "\u0334", unicodedata.normalize("NFD", c))
        if any(package.normalize_str(p) != unicodedata.normalize(form, p) for p in probes):
            unknown.add(c)
    return unknown


def normalization_lines():
    """[text, NFC, NFKC] by Python's tables."""
    for text in SAMPLES + random_texts(300, 300):
        row = [text] + [unicodedata.normalize(form, text) for form in ("NFC", "NFKC")]
        yield json.dumps(row, separators=(",", ":")) + "\n"


def training_text():
    rng = random.Random(1)
    words = ("the of and to in is you that it he was for on are as with his they at be this have from or one had by "
             "word but not what all were we when your can said there use an each which she do how their if will up "
             "other about out many then them these so some her would make like him into time has look two more "
             "write go see number no way could people my than first water been call who oil its now find").split()
    lines = [" ".join(rng.choice(words) for _ in range(12)).capitalize() + "." for _ in range(300)]
    return lines + [str(rng.randint(0, 10**6)) for _ in range(100)] + SAMPLES


def trained(pre_tokenizer, normalizer=None, post_processor=None, specials=("<s>", "</s>"), vocab_size=420):
    tokenizer = Tokenizer(models.BPE())
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=list(specials), show_progress=False,
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.decoder = decoders.ByteLevel()
    if post_processor:
        tokenizer.post_processor = post_processor(tokenizer)
    return tokenizer


def byte_level(use_regex=False, add_prefix_space=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space, use_regex=use_regex)


def split(pattern, behavior="isolated", invert=False):
    return pre_tokenizers.Split(Regex(pattern), behavior, invert)


def bos_template(tokenizer):
    return processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> $B </s>",
        special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("<s>", "</s>")])])


def small_tokenizers():
    sequence = pre_tokenizers.Sequence
    yield "gpt2", trained(byte_level(use_regex=True))
    yield "gpt2_prefix_space", trained(sequence([pre_tokenizers.Digits(individual_digits=False),
                                                 byte_level(use_regex=True, add_prefix_space=True)]))
    yield "llama3", trained(sequence([split(LLAMA3), byte_level()]), post_processor=bos_template)
    yield "qwen2", trained(sequence([split(QWEN2), byte_level()]), normalizer=normalizers.NFC())
    yield "smollm2", trained(sequence([pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=True)]))
    yield "default", trained(sequence([split(p) for p in (
        r"[\p{P}\$\+<=>\^~\|]+", r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)",
        r"\p{N}+", "[0-9][0-9][0-9]")] + [byte_level()]))
    nfkc = normalizers.Sequence([normalizers.NFKC(), normalizers.NFC()])
    yield "removed", trained(sequence([split(r"[\s\p{Han}]", "removed"), byte_level()]), normalizer=nfkc)
    yield "behaviors", trained(sequence([split(r"\w+|\d", "removed", True), split(r"[aeiou]", "merged_with_previous"),
                                         split("t", "merged_with_next"), split(r"\p{Lu}|[\p{N}_]", "contiguous"),
                                         pre_tokenizers.Split(".", "isolated"), byte_level()]))
    added = trained(byte_level(use_regex=True), normalizer=normalizers.NFKC())
    added.add_tokens([AddedToken("word", single_word=True, normalized=False), AddedToken("<l>", lstrip=True),
                      AddedToken("<r>", rstrip=True), AddedToken("<lr>", lstrip=True, rstrip=True, normalized=False),
                      AddedToken("caf\u00e9!", normalized=True), AddedToken("<raw\u00e9>", normalized=False),
                      AddedToken("<a", normalized=False), AddedToken("<ab", normalized=False), AddedToken("<abc", normalized=True),
                      AddedToken("\u212bngstrom", normalized=True)])
    yield "added", added


def without_some_bytes(tokenizer):
    """The same vocabulary, ignoring merges, with an unknown token in the place of some bytes' tokens."""
    data = json.loads(tokenizer.to_str())
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    gone = {c for c in alphabet if data["model"]["vocab"][c] % 11 == 3}
    vocab = {t: i for t, i in data["model"]["vocab"].items() if not set(t) & gone}
    data["model"].update(vocab=vocab, merges=[" ".join(m) for m in data["model"]["merges"] if "".join(m) in vocab and set(m) <= set(vocab)],
                         unk_token="<s>", fuse_unk=True, ignore_merges=True)
    # Tokens that no merge makes, which only a whole piece can be.
    for extra in ("\u0120hopscotch", "hopscotch", "\u0120\u0120\u0120"):
        data["model"]["vocab"][extra] = max(data["model"]["vocab"].values()) + 1
    return Tokenizer.from_str(json.dumps(data))


def sentencepiece_model():
    """A model like Llama 2's: texts as they are but for the space in front, bytes for characters without piece."""
    model = io.BytesIO()
    lines = [line for line in training_text() if line and "\0" not in line]
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, model_type="bpe", vocab_size=560, byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, num_threads=1, minloglevel=2)
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def all_merges(vocab, scores):
    """Every way to cut a piece into two, the pieces of the highest scores first."""
    cuts = [(p[:i], p[i:]) for p in vocab for i in range(1, len(p)) if p[:i] in vocab and p[i:] in vocab]
    return sorted(cuts, key=lambda cut: -scores["".join(cut)])


def in_pieces(model, normalizer, pre_tokenizer, decoder):
    """The tokenizer.json of such a model."""
    ids = range(model.get_piece_size())
    vocab = {model.id_to_piece(i): i for i in ids}
    pieces = {model.id_to_piece(i): model.get_score(i) for i in ids
              if not (model.is_byte(i) or model.is_control(i) or model.is_unknown(i))}
    # The tests write scores of -id, which must order the pieces as their own do.
    assert all(model.get_score(i) > model.get_score(i + 1) for i in range(259, len(ids) - 1))
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=all_merges(pieces, pieces), unk_token="<unk>", fuse_unk=True,
                                     byte_fallback=True))
    if normalizer:
        tokenizer.normalizer = normalizer
    if pre_tokenizer:
        tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoder
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)])
    return tokenizer


def pieces_decoder(strip):
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(steps + ([decoders.Strip(" ", 1, 0)] if strip else []))


def trained_metaspace(pre_tokenizer, decoder, normalizer=None, byte_tokens=(), **flags):
    """Of characters, some of which it lacks."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizer
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<s>", "</s>", "<unk>"] + list(byte_tokens),
                                  show_progress=False)
    lines = training_text()
    counts = collections.Counter(c for line in lines for c in line)
    known = sorted(counts, key=lambda c: (-counts[c], c))[:120]
    tokenizer.train_from_iterator(["".join(c for c in line if c in known) for line in lines], trainer)
    tokenizer.decoder = decoder
    data = json.loads(tokenizer.to_str())
    data["model"].update(flags)
    data["added_tokens"] = data["added_tokens"][:3]
    return Tokenizer.from_str(json.dumps(data))


def character_tokenizers(model):
    sequence = pre_tokenizers.Sequence
    metaspace = lambda scheme, split: pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
    legacy = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    yield "pieces", in_pieces(model, legacy, None, pieces_decoder(True))
    yield "pieces_first", in_pieces(model, None, metaspace("first", False), pieces_decoder(False))
    yield "metaspace", trained_metaspace(metaspace("always", True), decoders.Metaspace(), ignore_merges=True)
    # Bytes of some characters only, a pattern that is replaced, and added tokens among normalized text.
    some_bytes = [f"<0x{b:02X}>" for b in range(0x80, 0xE8)]
    plain = trained_metaspace(
        sequence([pre_tokenizers.Digits(individual_digits=True), metaspace("never", True)]),
        decoders.Sequence([decoders.Metaspace(prepend_scheme="never"), decoders.ByteFallback(), decoders.Fuse()]),
        normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\p{Lu}{2,}"), "CAPITALS"),
                              normalizers.Replace("ee", "i")]), some_bytes, byte_fallback=True, fuse_unk=True)
    plain.add_tokens([AddedToken("word", single_word=True, normalized=False), AddedToken("<l>", lstrip=True),
                      AddedToken("<r>", rstrip=True), AddedToken("sheep see", normalized=True)])
    yield "metaspace_never", plain


def embedded_tokenizer(path):
    """Of the GGUF's keys: Digits one by one, then ByteLevel; token type 3 is special."""
    fields = gguf.GGUFReader(path).fields
    value = lambda key: fields["tokenizer.ggml." + key].contents()
    assert (value("model"), value("pre")) == ("gpt2", "smollm")
    tokens = value("tokens")
    tokenizer = Tokenizer(models.BPE(vocab={t: i for i, t in enumerate(tokens)},
                                     merges=[tuple(m.split(" ")) for m in value("merges")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True),
                                                       byte_level(use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False)
                                  for t, kind in zip(tokens, value("token_type")) if kind == 3])
    return tokenizer, fields["tokenizer.chat_template"].contents()


def golden_lines(tokenizer, texts):
    """One line a text: [text, ids, ids without special tokens parsed or added or null if the same]."""
    for text in texts:
        tokenizer.encode_special_tokens = False
        ids = tokenizer.encode(text).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        yield json.dumps([text, ids, None if plain == ids else plain], separators=(",", ":")) + "\n"
    tokenizer.encode_special_tokens = False


def decode_lines(tokenizer, count, seed):
    """[ids, text, text without special tokens] of random ids, which cut characters anywhere."""
    rng = random.Random(seed)
    size = tokenizer.get_vocab_size()
    multibyte = [i for i in range(size) if "\ufffd" in tokenizer.decode([i])] or [0]
    for _ in range(count):
        ids = [rng.choice(multibyte) if rng.random() < 0.7 else rng.randrange(size) for _ in range(rng.randint(1, 24))]
        row = [ids, tokenizer.decode(ids, skip_special_tokens=False), tokenizer.decode(ids, skip_special_tokens=True)]
        yield json.dumps(row, separators=(",", ":")) + "\n"


def check_pieces(model, tokenizer, texts):
    """SentencePiece itself gives the ids of its tokenizer.json, which the tests expect of its scores."""
    tokenizer.encode_special_tokens = True
    for text in texts:
        assert model.encode(text) == tokenizer.encode(text, add_special_tokens=False).ids, text
    tokenizer.encode_special_tokens = False


def ranks_of(tokenizer):
    """The tokens of a byte-level vocabulary in order, without its special ones."""
    byte_of = {c: bytes([b]) for b, c in enumerate(byte_characters())}
    special = {t.content for t in tokenizer.get_added_tokens_decoder().values()}
    tokens = sorted((i, t) for t, i in tokenizer.get_vocab().items() if t not in special)
    return {b"".join(byte_of[c] for c in t): rank for rank, (_, t) in enumerate(tokens)}


def byte_characters():
    """Of each byte the character in which byte-level vocabularies write it."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(0x100, 0x200))
    return [chr(b if b in printable else next(others)) for b in range(256)]


def rank_lines(encoding, texts, form):
    for text in texts:
        normal = unicodedata.normalize(form, text) if form else text
        ids = encoding.encode(normal, allowed_special="all")
        plain = encoding.encode(normal, disallowed_special=())
        yield json.dumps([text, ids, None if plain == ids else plain], separators=(",", ":")) + "\n"


def rank_decode_lines(encoding, specials, count, seed):
    rng = random.Random(seed)
    for _ in range(count):
        ids = [rng.randrange(encoding.n_vocab) for _ in range(rng.randint(1, 24))]
        without = [i for i in ids if i not in specials.values()]
        yield json.dumps([ids, encoding.decode(ids), encoding.decode(without)], separators=(",", ":")) + "\n"


def chat_lines(template):
    def render(messages):
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
        return environment.from_string(template).render(messages=messages, add_generation_prompt=True)

    system, user, assistant = ({"role": r} for r in ("system", "user", "assistant"))
    say = lambda role, content: {**role, "content": content}
    for messages in ([], [say(user, "Hi")], [say(system, "Be brief."), say(user, "Hi")], [say(system, "")],
                     [say(user, "Hi"), say(assistant, "Hello!"), say(user, "How are you?\n\nWell?")],
                     [say(user, ""), say(system, "late"), say(assistant, " \n ")], [say(assistant, "I start.")],
                     [say(user, "\u00e9\U0001f600 {{ x }} {% y %} {0} <|im_end|> </s>\r\n")]):
        yield json.dumps([messages, render(messages)], separators=(",", ":")) + "\n"


def write(path, lines):
    path.write_text("".join(lines), encoding="ascii")
    print(path, path.stat().st_size)


def write_character_tokenizers(folder):
    model = sentencepiece_model()
    unknown = unknown_to_normalizer("NFKC")
    for index, (name, tokenizer) in enumerate(character_tokenizers(model)):
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
        (folder / f"{name}.json").write_text(json.dumps(json.loads(tokenizer.to_str()), separators=(",", ":")))
        texts = SAMPLES + random_texts(20, 400 + index) + [f"\u2581 {SPACE}x <0x41>", "see sheep SEE", " sheep  see x"]
        if name == "pieces":
            check_pieces(model, tokenizer, texts + random_texts(2000, 9))
        texts += [s.format("<s>", "</s>") for s in SPECIALS]
        if name == "metaspace_never":
            texts = ["".join(c for c in text if c not in unknown) for text in texts + ADDED]
        write(folder / f"{name}.encode.jsonl", golden_lines(tokenizer, texts))
        write(folder / f"{name}.decode.jsonl", decode_lines(tokenizer, 40, 500 + index))


def write_ranks(folder, tokenizer):
    ranks = ranks_of(tokenizer)
    lines = "".join(f"{base64.b64encode(t).decode()} {r}\n" for t, r in ranks.items())
    (folder / "small.tiktoken").write_text(lines)
    for index, (name, pattern, form) in enumerate((("qwen", QWEN2, "NFC"), ("cl100k", LLAMA3, None), ("o200k", O200K, None))):
        names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<|extra_{i}|>" for i in range(205)]
        specials = {t: len(ranks) + i for i, t in enumerate(names)}
        encoding = tiktoken.Encoding(name, pat_str=pattern, mergeable_ranks=ranks, special_tokens=specials)
        texts = SAMPLES + [s.format(*names[1:3]) for s in SPECIALS] + random_texts(15, 600 + index)
        write(folder / f"ranks_{name}.encode.jsonl", rank_lines(encoding, texts, form))
        if name == "qwen":
            write(folder / "ranks_qwen.decode.jsonl", rank_decode_lines(encoding, specials, 40, 700))


def main(model, folder):
    folder.mkdir(parents=True, exist_ok=True)
    small = list(small_tokenizers())
    small.append(("unknown_bytes", without_some_bytes(small[0][1])))
    unknown = unknown_to_normalizer("NFC") | unknown_to_normalizer("NFKC")
    write(folder / "normalize.jsonl", normalization_lines())
    for index, (name, tokenizer) in enumerate(small):
        tokenizer = Tokenizer.from_str(tokenizer.to_str())
        (folder / f"{name}.json").write_text(json.dumps(json.loads(tokenizer.to_str()), separators=(",", ":")))
        texts = SAMPLES + [s.format("<s>", "</s>") for s in SPECIALS] + random_texts(80, 100 + index)
        texts += ["a hopscotch, hopscotch", "hopscotch   ", "x\n    y"] + (ADDED if name == "added" else [])
        if tokenizer.normalizer:
            texts = ["".join(c for c in text if c not in unknown) for text in texts]
        write(folder / f"{name}.encode.jsonl", golden_lines(tokenizer, texts))
        write(folder / f"{name}.decode.jsonl", decode_lines(tokenizer, 40, 200 + index))
    write_character_tokenizers(folder)
    write_ranks(folder, small[0][1])
    tokenizer, template = embedded_tokenizer(model)
    texts = SAMPLES + [s.format("<|im_start|>", "<|im_end|>") for s in SPECIALS] + random_texts(400, 7)
    write(folder / "embedded.encode.jsonl", golden_lines(tokenizer, texts))
    write(folder / "embedded.decode.jsonl", decode_lines(tokenizer, 150, 8))
    write(folder / "embedded.chat.jsonl", chat_lines(template))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    if tuple(map(int, unicodedata.unidata_version.split(".")[:2])) > (14, 0):
        sys.exit(f"Python's Unicode tables are {unicodedata.unidata_version}; use a Python with 14.0 or older (3.11)")
    main(sys.argv[1], pathlib.Path(sys.argv[2]))
