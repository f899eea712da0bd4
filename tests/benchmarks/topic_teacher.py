"""A teacher whose vectors follow from texts that name a number; in a module of its own, which every process imports."""

from __future__ import annotations

import numpy as np

from tests.teachers import HashTeacher

NUM_TOPICS = 2_000


class TopicTeacher(HashTeacher):
    """Unit vectors of the texts that ``make`` makes: "passage 7", near a topic, and "question 7", near its passage."""

    def __init__(self, dimension: int) -> None:
        super().__init__(dimension, name="topics")

    def encode(self, texts: list[str], role: str) -> np.ndarray:
        """Return vectors, shape ``[len(texts), dimension]``, float32."""
        numbers = [int(text.split()[1]) for text in texts]
        passages = super().encode([f"topic {number % NUM_TOPICS}" for number in numbers], role)
        passages += super().encode([f"passage {number}" for number in numbers], role)
        asking = np.array([text.startswith("question") for text in texts])
        noise = super().encode(texts, role) * np.array([0.5 + number % 100 / 40 for number in numbers])[:, None]
        vectors = passages + np.where(asking[:, None], noise, 0)
        return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
