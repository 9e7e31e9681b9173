"""What is known of tasks by name: which columns hold the text."""

# In the order of trying: the first entry whose columns are all there is taken.
TEXT_COLUMNS: tuple[tuple[str, ...], ...] = (
    ("question", "sentence"),
    ("sentence1", "sentence2"),
    ("question1", "question2"),
    ("premise", "hypothesis"),
    ("sentence",),
    ("text",),
)
LABEL_COLUMN = "label"
