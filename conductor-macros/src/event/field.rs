//! The handle of a field, which filters use.

use proc_macro2::TokenStream;
use quote::quote;
use syn::ext::IdentExt;
use syn::{Attribute, Field, Ident, Path, Type, Visibility};

use super::serde::{Container, Stored};
use crate::errors::Errors;
use crate::task::ownership;

/// A field with a name of its own in the stored event.
pub(crate) struct Handle {
    pub(super) conditions: Vec<Attribute>,
    vis: Visibility,
    pub(super) ident: Ident,
    ty: Type,
    /// The name in the stored JSON.
    pub(super) stored: String,
}

impl Handle {
    /// Reads a field; `None` if it has no name of its own in the JSON, or if it has errors.
    pub(crate) fn read(field: &Field, container: &Container, errors: &mut Errors) -> Option<Self> {
        let ident = field.ident.clone()?;
        let before = errors.count();
        ownership::check(&field.ty, "an event", errors);
        let stored = Stored::read(&field.attrs, errors);
        if errors.count() > before || !stored.is_plain {
            return None;
        }
        let conditions = field
            .attrs
            .iter()
            .filter(|attr| attr.path().is_ident("cfg"));
        Some(Self {
            conditions: conditions.cloned().collect(),
            vis: field.vis.clone(),
            stored: (stored.name)
                .unwrap_or_else(|| container.rename.apply(&ident.unraw().to_string())),
            ident,
            ty: field.ty.clone(),
        })
    }

    /// Returns the associated constant.
    pub(crate) fn constant(&self, krate: &Path) -> TokenStream {
        let Self {
            conditions,
            vis,
            ident,
            ty,
            stored,
        } = self;
        let field = quote!(#krate::__private::Field);
        let about = format!("The field `{}`, for filters.", ident.unraw());
        quote! {
            #(#conditions)*
            #[doc = #about]
            #vis const #ident: #field<Self, #ty> = #field::new(&[#stored]);
        }
    }
}
