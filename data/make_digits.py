"""Write digits.npz from the data set that ships with scikit-learn: ``python make_digits.py``."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

digits = load_digits()
np.savez_compressed(
    Path(__file__).with_name("digits.npz"),
    x=digits.data.astype(np.uint8),  # 1797 × 64, ink from 0 to 16
    y=digits.target.astype(np.uint8),  # 1797, the digit
)
