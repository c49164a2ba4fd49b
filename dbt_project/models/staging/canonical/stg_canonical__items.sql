{# Those that shops write; a list of all would take `Health&Beauty;Home` for one more easily. #}
{% set entities = [
    '#[0-9]{1,7}', '#[xX][0-9A-Fa-f]{1,6}', 'amp', 'lt', 'gt', 'quot', 'apos', 'nbsp', 'ndash', 'mdash', 'hellip', 'middot',
    'bull', 'deg', '[lr][sd]quo', '[lr]aquo', 'szlig', '[ao]elig', 'AElig', 'OElig', 'eth', 'ETH', 'thorn', 'THORN', 'euro',
    '[A-Za-z](acute|grave|circ|uml|tilde|cedil|caron|ring|slash)'
] %}
{# Of a category `e` that is an object. #}
{% set own_name -%}
    list_filter(
        json_extract_string(e, ['$.name', '$.title', '$.label']),
        lambda text: text is not null and text[1] not in ('{', '[')
    )[1]
{%- endset %}
{% set scalars = [
    'item_id', 'kind', 'title', 'description', 'creator_id', 'price', 'published_at', 'available_from', 'available_until'
] %}
with landed as (
    select
        arrival_hour,
        source,
        file,
        row_number,
        raw,
        read_error,
        case when read_error is null then cast(raw as json) end as came,
        {{ given_attributes('came') }} as given
    from {{ source('landed', 'items') }}
    where source not in ('{{ var("sources_of_their_own") | join("', '") }}')
),

extracted as (
    select
        *,
        json_extract_string(came, ['$.{{ scalars | join("', '$.") }}']) as texts,
        json_type(came, ['$.{{ scalars | join("', '$.") }}']) as types,
        json_type(came, '$.categories') as categories_type,
        -- The semicolon of `&amp;` separates nothing: a character that nobody writes stands for it.
        regexp_replace(
            {{ trimmed("(came ->> '$.categories')") }},
            '&({{ entities | join("|") }});',
            '&\1' || chr(57344),
            'g'
        ) as categories_came,
        {{ attributes('came', 'given', scalars + ['categories']) }} as attributes
    from landed
),

-- Of a list with lists or objects in it, the members of the lists.
nested as (
    select
        *,
        case
            when
                starts_with(categories_came, '[') and json_valid(categories_came)
                and regexp_matches(categories_came, '.[{[]')
                then flatten(list_transform(
                    from_json(categories_came, '["JSON"]'),
                    lambda e: case when json_type(e) = 'ARRAY' then from_json(e, '["JSON"]') else [e] end
                ))
        end as members
    from extracted
),

named as (
    select
        arrival_hour,
        source,
        file,
        row_number,
        raw,
        read_error,
        {{ plain_attributes('attributes') }} as attributes,
        coalesce(list_has_any(types, ['OBJECT', 'ARRAY']) or categories_type = 'OBJECT', false)
        or coalesce(
            len(list_filter(
                members,
                lambda e: json_type(e) = 'ARRAY'
                or (json_type(e) = 'OBJECT' and cast(e as varchar) <> '{}' and {{ own_name }} is null)
            )) > 0,
            false
        ) as has_wrong_type,
        -- A list, as JSON or as Python writes it, or text with one of the usual separators. An object goes by its name.
        case
            when members is not null
                then list_transform(
                    members, lambda e: case when json_type(e) = 'OBJECT' then {{ own_name }} else e ->> '$' end
                )
            when starts_with(categories_came, '[') and json_valid(categories_came)
                then from_json(categories_came, '["VARCHAR"]')
            when starts_with(categories_came, '[') and try_cast(categories_came as varchar[]) is not null
                then try_cast(categories_came as varchar[])
            when contains(categories_came, '|') then string_split(categories_came, '|')
            when contains(categories_came, ';') then string_split(categories_came, ';')
            when categories_came is not null then string_split(categories_came, ',')
            else []
        end as categories_split,
        list_transform(categories_split, lambda e: replace(e, chr(57344), ';')) as categories_came,
        {{ columns_of('texts', scalars, '_came') }}
    from nested
),

-- Each distinct text is repaired once.
texts as (
    select
        came,
        {{ tidied('came') }} as tidy
    from (
        select title_came as came from named
        union
        select description_came as came from named
        union
        select unnest(categories_came) as came from named
    )
    where came is not null
),

categories as (
    select
        each.file,
        each.row_number,
        list(texts.tidy order by each.place) as categories
    from (
        select
            file,
            row_number,
            unnest(categories_came) as came,
            generate_subscripts(categories_came, 1) as place
        from named
    ) as each
    inner join texts on each.came = texts.came
    where texts.tidy is not null
    group by each.file, each.row_number
),

typed as (
    select
        named.*,
        titles.tidy as title,
        descriptions.tidy as description,
        coalesce(categories.categories, []) as categories,
        {{ number('price_came') }} as price,
        {{ utc_time('published_at_came') }} as published_at,
        {{ utc_time('available_from_came') }} as available_from,
        {{ utc_time('available_until_came') }} as available_until
    from named
    left join texts as titles on named.title_came = titles.came
    left join texts as descriptions on named.description_came = descriptions.came
    left join categories on named.file = categories.file and named.row_number = categories.row_number
)

select
    arrival_hour,
    source,
    file,
    row_number,
    cast(0 as bigint) as preference,
    item_id_came as item_id,
    kind_came as kind,
    title,
    description,
    categories,
    creator_id_came as creator_id,
    price,
    published_at,
    available_from,
    available_until,
    attributes,
    raw,
    case
        when read_error is not null then read_error
        when has_wrong_type then 'wrong_type'
        when {{ is_oversized(['item_id_came', 'creator_id_came', 'kind_came']) }} then 'oversized_id'
        when price_came is not null and (price is null or price < 0) then 'invalid_price'
        when
            (published_at_came is not null and published_at is null)
            or (available_from_came is not null and available_from is null)
            or (available_until_came is not null and available_until is null)
            then 'unusable_time'
    end as reason
from typed
