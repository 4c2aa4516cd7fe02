"""The keys of ``conf/augmentation/``: random changes of the training images."""

from __future__ import annotations

from pydantic import Field

from siamese.config.section import Section


class AugmentationConfig(Section):
    """Random changes of training images, drawn independently for each image."""

    flip: bool = Field(description="mirror each image with probability 0.5")
    rotation: float = Field(ge=0, le=180, description="largest rotation in either direction, in degrees; 0: off")
    shear: float = Field(ge=0, lt=1, description="largest shear, as the tangent of the angle; 0: off")
    scale: float = Field(ge=1, le=4, description="largest factor on the size; the smallest is 1 / scale; 1: off")
    translation: float = Field(ge=0, lt=1, description="largest shift, as a fraction of the image side; 0: off")
    brightness: float = Field(
        ge=0, lt=1, description="largest value that is added to or subtracted from all pixels (white is 1); 0: off"
    )
    contrast: float = Field(
        ge=0, lt=1, description="largest relative change of the pixels' distances from their mean; 0: off"
    )
    erase: float = Field(ge=0, le=1, description="probability that a random rectangle is blanked; 0: off")
    erase_size: float = Field(gt=0, lt=1, description="largest side of that rectangle, as a fraction of the image side")

    @property
    def changes(self) -> bool:
        """Whether any change is switched on."""
        amounts = (self.rotation, self.shear, self.translation, self.brightness, self.contrast, self.erase)
        return self.flip or self.scale > 1 or any(amounts)
