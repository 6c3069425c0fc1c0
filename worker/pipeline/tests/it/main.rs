//! The pipeline from outside: real photographs, every format, hostile files, and quality against a slow reference.

mod formats;
mod hostile;
mod support;
