//! BERT with a classifier (Devlin et al. 2018, arXiv 1810.04805).

mod config;
mod model;

pub use config::BertConfig;
pub use model::{
    BertAttention, BertEmbeddings, BertEncoder, BertForSequenceClassification, BertIntermediate, BertLayer,
    BertModel, BertOutput, BertPooler, BertSelfAttention,
};
