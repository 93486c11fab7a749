//! The attribute `#[event]`: reads a struct, and generates an impl, handles and a registration.

mod attr;
mod derives;
mod expand;
mod field;
mod item;
pub(crate) mod nested;
mod serde;

use proc_macro2::TokenStream;
use quote::quote;

use crate::errors::Errors;
use attr::Attr;
use expand::Expansion;
use item::Item;

/// Returns the struct and the generated code, or the struct and all its errors.
pub(crate) fn expand(args: TokenStream, item: TokenStream) -> TokenStream {
    let mut errors = Errors::default();
    let attr = Attr::read(args, &mut errors);
    let Some(item) = errors.keep(item::parse(item.clone())) else {
        let errors = errors.into_compile_errors();
        return quote!(#errors #item);
    };
    let read = Item::read(&item, &mut errors);
    let is_sound = errors.count() == 0;
    let expansion = Expansion {
        input: &item,
        attr: &attr,
        item: &read,
    };
    let items = match is_sound {
        true => expansion.items(),
        false => expansion.stub(),
    };
    let errors = errors.into_compile_errors();
    quote!(#errors #items)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(args: TokenStream, item: TokenStream) -> String {
        expand(args, item).to_string().replace(' ', "")
    }

    #[test]
    fn a_struct_gets_its_impl_and_handles() {
        let made = expanded(
            quote!(),
            quote!(
                pub struct UserSignedUp {
                    pub user_id: i64,
                    email: String,
                }
            ),
        );
        assert!(!made.contains("compile_error"), "{made}");
        assert!(made.contains("::conductor::EventforUserSignedUp"), "{made}");
        assert!(made.contains("NAME:&'static::core::primitive::str=\"user_signed_up\""));
        assert!(made.contains("VERSION:::core::primitive::u32=1u32"));
        assert!(made.contains(
            "pubconstuser_id:::conductor::__private::Field<Self,i64>=\
             ::conductor::__private::Field::new(&[\"user_id\"])"
        ));
        assert!(made.contains("constemail:"), "{made}");
        assert!(!made.contains("pubconstemail:"), "{made}");
        assert!(made.contains("EventDefinition::of::<UserSignedUp>"));
    }

    #[test]
    fn keys_set_name_version_and_crate() {
        let made = expanded(
            quote!(
                name = "user.signed_up",
                version = 2,
                keep = "90d",
                crate = "::a::b"
            ),
            quote!(
                struct X;
            ),
        );
        assert!(made.contains("str=\"user.signed_up\""), "{made}");
        assert!(made.contains("u32=2u32"));
        assert!(made.contains("Duration::from_millis(7776000000u64)"));
        assert!(made.contains("::a::b::EventforX"));
        assert!(made.contains("crate=\"::a::b::__private::serde\""));
        assert!(!made.contains("::conductor"));
    }

    #[test]
    fn every_mistake_is_reported_and_the_type_stays() {
        let made = expanded(
            quote!(version = 0, nam = "a"),
            quote!(
                struct Pair<T>(T, i64);
            ),
        );
        assert_eq!(made.matches("compile_error").count(), 4, "{made}");
        assert!(made.contains("structPair<T>"));
    }

    #[test]
    fn what_is_no_struct_is_refused() {
        for item in [
            quote!(
                enum A {
                    B,
                }
            ),
            quote!(
                union A {
                    b: i64,
                }
            ),
            quote!(
                fn a() {}
            ),
        ] {
            let made = expanded(quote!(), item);
            assert_eq!(made.matches("compile_error").count(), 1, "{made}");
        }
    }
}
