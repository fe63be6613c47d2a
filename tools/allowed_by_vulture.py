"""Names that vulture finds unused, and that others than Luthier's own code use: each with who does."""

# mypy: ignore-errors
_ = None

# Python itself: attributes of the package, imported late
_.__getattr__
_.__dir__

# the standard library calls or reads them
_.showwarning  # warnings
_.readable, _.readinto  # io.RawIOBase
_.extra  # zipfile.ZipInfo
_.persistent_id, _.reducer_override  # pickle.Pickler
_.tempdir  # tempfile

# libraries call or read them
_.extra_repr  # torch.nn.Module
_.closure  # torch.optim.Optimizer.step: the argument has its name there
_.box, _.pad_edge  # rich.table.Table
_.tags, _.globals  # jinja2.ext.Extension, jinja2.Environment
_.post_processor, _.encode_special_tokens  # tokenizers.Tokenizer

# templates in src/luthier/pages read them
_.folded, _.folded_code

# members of a file format's enumerations: made from the number that a file holds, and not named
_.Q4_0, _.Q4_1, _.Q8_0, _.Q4_K, _.Q6_K  # native.layout.Kind
_.CHARACTERS  # sentencepiece_file.Algorithm

# people call them from Python; notebooks call _repr_html_
_.frame, _.plot, _.report, _.samples
_._repr_html_
_._repr_png_
_.say  # generation.conversation.Conversation
