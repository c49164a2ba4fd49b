{% set columns = [
    'product_id', 'manufacturer_id', 'department', 'brand', 'product_category', 'product_type', 'package_size'
] %}
with named as (
    {{ landed_fields('items', 'complete-journey', columns) }}
)

select
    arrival_hour,
    source,
    file,
    row_number,
    cast(0 as bigint) as preference,
    product_id as item_id,
    'product' as kind,
    {{ tidied('coalesce(product_type, product_category)') }} as title,
    cast(null as varchar) as description,
    list_filter(
        [{{ tidied('department') }}, {{ tidied('product_category') }}], lambda name: name is not null
    ) as categories,
    manufacturer_id as creator_id,
    cast(null as double) as price,
    cast(null as timestamp) as published_at,
    cast(null as timestamp) as available_from,
    cast(null as timestamp) as available_until,
    -- Thousands of package sizes would make thousands of texts that say the same of an interest.
    cast(json_object('brand', brand, 'package_size', package_size) as varchar) as attributes,
    raw,
    read_error as reason
from named
