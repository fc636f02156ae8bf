"""Image arithmetic written plainly, to compare the ops of the device with."""

import numpy as np


def resampled(image, place, fill):
    """Bilinear values at (y, x) = place(y, x) from the centre, pixel by pixel; `fill` outside."""
    height, width, _ = image.shape
    middle_y, middle_x = (height - 1) / 2, (width - 1) / 2
    result = np.zeros(image.shape)
    outside = image.mean(axis=(0, 1), dtype=np.float64) if fill == "mean" else np.zeros(3)
    for row in range(height):
        for column in range(width):
            y, x = place(row - middle_y, column - middle_x)
            y, x = y + middle_y, x + middle_x
            for i in (int(np.floor(y)), int(np.floor(y)) + 1):
                for j in (int(np.floor(x)), int(np.floor(x)) + 1):
                    value = image[i, j] if 0 <= i < height and 0 <= j < width else outside
                    result[row, column] += (1 - abs(y - i)) * (1 - abs(x - j)) * value
    return result
