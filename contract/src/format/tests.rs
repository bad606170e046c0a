//! Texts and shapes of the formats.
