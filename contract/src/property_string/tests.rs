//! Reading and writing of property strings.
