{% set columns = [
    'asin', 'parent_asin', 'title', 'brand', 'store', 'price', 'description', 'feature', 'features', 'category', 'categories'
] %}
with named as (
    {{ landed_fields('items', 'amazon-reviews', columns) }}
),

merged as (
    select
        * exclude (description, categories),
        coalesce(parent_asin, asin) as item_id,
        concat_ws(
            ' ',
            list_aggregate({{ texts_of('description') }}, 'string_agg', ' '),
            list_aggregate({{ texts_of('coalesce(features, feature)') }}, 'string_agg', ' ')
        ) as description,
        list_transform({{ texts_of('coalesce(categories, category)') }}, lambda name: {{ tidied('name') }})
            as categories,
        -- "$12.99", "from 12.99", "$12.99 - $24.99" (the lowest); also "—", and pieces of a page's style sheet.
        regexp_extract(price, '^(?:from )?[$]?\s*([0-9][0-9,]*(?:[.][0-9]+)?)(?:$|\s)', 1) as lowest_price
    from named
)

select
    arrival_hour,
    source,
    file,
    row_number,
    cast(0 as bigint) as preference,
    item_id,
    'product' as kind,
    {{ tidied('title') }} as title,
    {{ tidied('description') }} as description,
    coalesce(list_filter(categories, lambda name: name is not null), []) as categories,
    coalesce(brand, store) as creator_id,
    -- A price that is none says nothing against the product.
    {{ number("replace(lowest_price, ',', '')") }} as price,
    cast(null as timestamp) as published_at,
    cast(null as timestamp) as available_from,
    cast(null as timestamp) as available_until,
    cast(null as varchar) as attributes,
    raw,
    case
        when read_error is not null then read_error
        -- Rows of 2018 where a page's script was taken for the product.
        when contains(title, 'getTime') then 'unusable_description'
    end as reason
from merged
