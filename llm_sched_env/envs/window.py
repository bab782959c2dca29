"""A window that shows pictures of a cluster (extra ``human``)."""

from __future__ import annotations

import numpy as np

from llm_sched_env.errors import ConfigurationError


class Window:
    """Opened with the first picture, at its size.

    Args:
        title: of the window.
        frames_per_second: at most; showing a picture waits for its turn.

    Raises:
        ConfigurationError: without pygame, or without a display.
    """

    def __init__(self, title: str, frames_per_second: int) -> None:
        try:
            import pygame
        except ImportError as error:
            raise ConfigurationError(
                "render_mode",
                "human",
                f"pygame, which it needs ({error})",
                "install pygame-ce, the extra 'human', or take \"rgb_array\"",
            ) from error
        self._pygame = pygame
        self._title, self._frames_per_second = title, frames_per_second
        self._surface: pygame.Surface | None = None
        self._clock = pygame.time.Clock()

    def show(self, picture: np.ndarray) -> None:
        """Show a picture; uint8, shape (height, width, 3)."""
        pygame = self._pygame
        if self._surface is None:
            try:
                pygame.display.init()
                self._surface = pygame.display.set_mode(picture.shape[1::-1])
            except pygame.error as error:
                raise ConfigurationError(
                    "render_mode",
                    "human",
                    f"a display ({error})",
                    'set SDL_VIDEODRIVER=dummy, or take "rgb_array"',
                ) from error
            pygame.display.set_caption(self._title)
        pygame.surfarray.blit_array(self._surface, picture.swapaxes(0, 1))
        pygame.event.pump()  # else the system takes the window for dead
        pygame.display.flip()
        self._clock.tick(self._frames_per_second)

    def close(self) -> None:
        """Close the window; the next picture opens it again."""
        if self._surface is not None:
            self._pygame.display.quit()
            self._surface = None
