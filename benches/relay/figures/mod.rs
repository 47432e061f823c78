//! What was measured, and the forms in which it is shown: tables, goals, a picture. It measures nothing, so a test can
//! draw a recorded run again.

pub mod factor;
pub mod figure;
pub mod goals;
pub mod measurement;
pub mod metric;
pub mod plot;
pub mod recording;
pub mod relay;
pub mod selection;
pub mod stats;
pub mod summary;
pub mod svg;
pub mod table;
