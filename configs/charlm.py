"""A language model of characters: LSTM with embedding, on Python's own standard library (or your text).

    python -m jtrain.main --config=configs/charlm.py
    python -m jtrain.main --config=configs/charlm.py:notes.txt

The second takes a file, a folder of *.txt, or a pattern. Expected of the first: 2.07 bits per character on the test
split (`bits_per_token`; 1.87 on validation, whose windows lie among those of training), seed 0, the library of Python
3.11; another version has other sources. Time: 4 to 6 minutes on 2 CPU cores.
"""

from jtrain.config import base


def get_config(arg=None):
    c = base()
    c.task.name = "language_modelling"
    c.data.name = "text"
    c.data.text.path = arg or ""
    c.data.text.length = 128
    c.data.validation = 0.02
    c.model.name = "lstm"
    c.model.lstm.embedding = 128
    c.model.lstm.hidden = 128
    c.optimizer.name = "adamw"
    c.optimizer.lr = 1e-2
    c.schedule.warmup = "5%"
    c.clip.name = "norm"
    c.model.lstm.dropout = 0.0  # small for so much text: it underfits
    c.train.total = "5epochs"
    c.train.batch_size = 32
    return c
