//! controller/apiserver
