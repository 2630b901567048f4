//! What a `TemplateProcessing` post-processor puts around the ids of a text.

/// Ids before and after those of the text.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Template {
    pub prefix: Vec<u32>,
    pub suffix: Vec<u32>,
}

impl Template {
    /// This template's result put through another.
    pub fn inside(self, outer: Template) -> Template {
        Template {
            prefix: [outer.prefix, self.prefix].concat(),
            suffix: [self.suffix, outer.suffix].concat(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outer_template_goes_around_an_inner() {
        let inner = Template { prefix: vec![1], suffix: vec![2] };
        let outer = Template { prefix: vec![3], suffix: vec![4] };
        assert_eq!(inner.inside(outer), Template { prefix: vec![3, 1], suffix: vec![2, 4] });
    }
}
